//! Searching places: GEOSEARCH, GEOSEARCHSTORE, and their elders GEORADIUS and GEORADIUSBYMEMBER.
//!
//! One parser reads them all, for key extraction and handler alike. The type of the key is judged before the options, as
//! Redis does.

use super::{Answer, Unit, answer_distance, answer_place, length, parse_place};
use crate::args::Args;
use crate::command::KeyList;
use crate::commands::{OVERWRITES, READS};
use crate::error::CommandError;
use crate::events::EventClass;
use crate::keyspace::Keys;
use crate::reply::Reply;
use crate::types::number;
use crate::types::place::{self, Area, Place};
use crate::types::{ScoreBound, SortedSet, Value};
use std::cmp::Ordering;

/// Which of the commands it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// `GEORADIUS key longitude latitude radius unit [option …]`.
    AroundPlace,
    /// `GEORADIUSBYMEMBER key member radius unit [option …]`.
    AroundMember,
    /// `GEOSEARCH key option …`.
    Search,
}

/// Where the middle of the search is.
#[derive(Clone, Copy, PartialEq, Debug)]
enum From {
    /// A member's place; nowhere as long as nobody looks it up.
    Member(Option<Place>),
    Place(Place),
}

/// What is searched; lengths in the unit the request uses.
#[derive(Clone, PartialEq, Debug)]
enum Shape {
    Circle(f64),
    Rectangle(f64, f64),
    Polygon(Vec<Place>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    Ascending,
    Descending,
}

/// A search, as requested.
#[derive(PartialEq, Debug)]
struct Search {
    from: Option<From>,
    shape: Option<Shape>,
    unit: Unit,
    with_distance: bool,
    with_hash: bool,
    with_place: bool,
    order: Option<Order>,
    /// At most this many; 0: all.
    count: usize,
    /// Any of them will do.
    any: bool,
    /// The index in argv of the destination, the last one given.
    store: Option<usize>,
    store_distances: bool,
}

impl Search {
    fn new() -> Search {
        Search {
            from: None,
            shape: None,
            unit: Unit::METER,
            with_distance: false,
            with_hash: false,
            with_place: false,
            order: None,
            count: 0,
            any: false,
            store: None,
            store_distances: false,
        }
    }

    /// Reads what stands between the key and the options of the elder commands.
    fn parse_center(&mut self, kind: Kind, args: &mut Args<'_>, set: Option<&SortedSet>) -> Answer {
        self.from = Some(match kind {
            Kind::AroundPlace => From::Place(parse_place(args)?),
            Kind::AroundMember => From::Member(place_of(args.take()?, set)?),
            Kind::Search => return Ok(()),
        });
        self.parse_radius(args)
    }

    fn parse_radius(&mut self, args: &mut Args<'_>) -> Answer {
        let radius = length(args, "radius")?;
        if radius < 0.0 {
            return Err(CommandError::err("radius cannot be negative"));
        }
        self.unit = Unit::parse(args.take()?)?;
        self.shape = Some(Shape::Circle(radius));
        Ok(())
    }

    fn parse_box(&mut self, args: &mut Args<'_>) -> Answer {
        let (width, height) = (length(args, "width")?, length(args, "height")?);
        if width < 0.0 || height < 0.0 {
            return Err(CommandError::err("height or width cannot be negative"));
        }
        self.unit = Unit::parse(args.take()?)?;
        self.shape = Some(Shape::Rectangle(width, height));
        Ok(())
    }

    fn parse_polygon(&mut self, args: &mut Args<'_>) -> Answer {
        const CORNERS_MIN: i64 = 3;
        let count = number::parse_i64(args.take()?).filter(|count| i32::try_from(*count).is_ok());
        let count = count.ok_or_else(|| CommandError::err("invalid number of vertices"))?;
        if count < CORNERS_MIN || (args.len() as i64) / 2 < count {
            return Err(CommandError::err("GEOSEARCH BYPOLYGON must have at least 3 vertices"));
        }
        let corners: Result<Vec<Place>, CommandError> = (0..count).map(|_| parse_place(args)).collect();
        self.unit = Unit::METER;
        self.shape = Some(Shape::Polygon(corners?));
        Ok(())
    }

    /// Reads the options that say where to search; false if the next argument is none of them.
    fn parse_where(&mut self, args: &mut Args<'_>, set: Option<&SortedSet>) -> Result<bool, CommandError> {
        let follow = args.len() - 1;
        let polygon = matches!(self.shape, Some(Shape::Polygon(_)));
        let member = matches!(self.from, Some(From::Member(_)));
        let place = matches!(self.from, Some(From::Place(_)));
        if follow >= 1 && !place && !polygon && args.accept("FROMMEMBER") {
            self.from = Some(From::Member(place_of(args.take()?, set)?));
        } else if follow >= 2 && !member && !polygon && args.accept("FROMLONLAT") {
            self.from = Some(From::Place(parse_place(args)?));
        } else if follow >= 2
            && !matches!(self.shape, Some(Shape::Rectangle(..)))
            && !polygon
            && args.accept("BYRADIUS")
        {
            self.parse_radius(args)?;
        } else if follow >= 3 && !matches!(self.shape, Some(Shape::Circle(_))) && !polygon && args.accept("BYBOX") {
            self.parse_box(args)?;
        } else if follow >= 2 && self.from.is_none() && (polygon || self.shape.is_none()) && args.accept("BYPOLYGON") {
            self.parse_polygon(args)?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// Reads the options. `stores`: the command knows STORE, or STOREDIST.
    fn parse_options(&mut self, kind: Kind, stores: bool, args: &mut Args<'_>, set: Option<&SortedSet>) -> Answer {
        while !args.is_empty() {
            let more = args.len() > 1;
            if args.accept("WITHDIST") {
                self.with_distance = true;
            } else if args.accept("WITHHASH") {
                self.with_hash = true;
            } else if args.accept("WITHCOORD") {
                self.with_place = true;
            } else if args.accept("ANY") {
                self.any = true;
            } else if args.accept("ASC") {
                self.order = Some(Order::Ascending);
            } else if args.accept("DESC") {
                self.order = Some(Order::Descending);
            } else if more && args.accept("COUNT") {
                let count = usize::try_from(args.integer()?).unwrap_or(0);
                self.count = count;
                if count == 0 {
                    return Err(CommandError::err("COUNT must be > 0"));
                }
            } else if kind == Kind::Search && stores && args.accept("STOREDIST") {
                self.store_distances = true;
            } else if kind == Kind::Search && self.parse_where(args, set)? {
            } else if kind != Kind::Search && stores && more && args.accept("STORE") {
                self.store_at(args, false)?;
            } else if kind != Kind::Search && stores && more && args.accept("STOREDIST") {
                self.store_at(args, true)?;
            } else {
                return Err(CommandError::Syntax);
            }
        }
        Ok(())
    }

    fn store_at(&mut self, args: &mut Args<'_>, distances: bool) -> Answer {
        self.store = Some(args.index());
        self.store_distances = distances;
        args.take().map(|_| ())
    }

    /// Refuses what does not go together.
    fn check(&self, kind: Kind, name: &[u8]) -> Answer {
        let name = || String::from_utf8_lossy(name).into_owned();
        if self.store.is_some() && (self.with_distance || self.with_hash || self.with_place) {
            let storing = if kind == Kind::Search { "GEOSEARCHSTORE" } else { "STORE option in GEORADIUS" };
            let text = format!("{storing} is not compatible with WITHDIST, WITHHASH and WITHCOORD options");
            return Err(CommandError::err(text));
        }
        if self.from.is_none() && !matches!(self.shape, Some(Shape::Polygon(_))) && kind == Kind::Search {
            let text = format!("exactly one of FROMMEMBER or FROMLONLAT can be specified for {}", name());
            return Err(CommandError::err(text));
        }
        if self.shape.is_none() && kind == Kind::Search {
            let text = format!("exactly one of BYRADIUS, BYBOX and BYPOLYGON can be specified for {}", name());
            return Err(CommandError::err(text));
        }
        if self.any && self.count == 0 {
            return Err(CommandError::err("the ANY argument requires COUNT argument"));
        }
        Ok(())
    }

    /// The area meant.
    fn area(&self) -> Result<Area, CommandError> {
        let center = match self.from {
            Some(From::Place(place) | From::Member(Some(place))) => place,
            // A polygon has its middle in itself.
            Some(From::Member(None)) | None => Place { longitude: 0.0, latitude: 0.0 },
        };
        let Unit(meters) = self.unit;
        Ok(match &self.shape {
            Some(Shape::Rectangle(width, height)) => {
                Area::Rectangle { center, width_m: width * meters, height_m: height * meters }
            }
            Some(Shape::Polygon(corners)) => Area::Polygon(corners.clone()),
            Some(Shape::Circle(radius)) => Area::Circle { center, radius_m: radius * meters },
            None => return Err(CommandError::Syntax),
        })
    }
}

/// Where a member is, if there is anything to look it up in.
fn place_of(member: &[u8], set: Option<&SortedSet>) -> Result<Option<Place>, CommandError> {
    let Some(set) = set else { return Ok(None) };
    let score =
        set.score(member).ok_or_else(|| CommandError::quoting(b"ERR member ", &[(member, b" does not exist")]))?;
    Ok(Some(place::place(score)))
}

/// A member that was found.
struct Found {
    member: Vec<u8>,
    score: f64,
    place: Place,
    distance_m: f64,
}

/// The members asked for, in the order asked for.
fn find(set: &SortedSet, search: &Search) -> Result<Vec<Found>, CommandError> {
    let area = search.area()?;
    let enough = if search.any { search.count } else { usize::MAX };
    let middle = area.middle();
    let mut found: Vec<Found> = Vec::new();
    'cells: for cell in area.cells() {
        let (first, end) = cell.scores();
        let ranks = set.ranks_by_score(ScoreBound::Inclusive(first), ScoreBound::Exclusive(end));
        for (member, score) in set.range(ranks) {
            if found.len() >= enough {
                break 'cells;
            }
            let place = place::place(score);
            if let Some(distance_m) = area.distance_inside_m(middle, place) {
                found.push(Found { member: member.into_vec(), score, place, distance_m });
            }
        }
    }
    // The nearest are meant, unless any will do.
    let nearest = (search.count > 0 && !search.any).then_some(Order::Ascending);
    let by_distance = |a: &Found, b: &Found| a.distance_m.partial_cmp(&b.distance_m).unwrap_or(Ordering::Equal);
    match search.order.or(nearest) {
        Some(Order::Ascending) => found.sort_by(by_distance),
        Some(Order::Descending) => found.sort_by(|a, b| by_distance(b, a)),
        None => {}
    }
    if search.count > 0 {
        found.truncate(search.count);
    }
    Ok(found)
}

fn answer(found: &[Found], search: &Search, reply: &mut Reply) {
    let extras = [search.with_distance, search.with_hash, search.with_place].into_iter().filter(|with| *with).count();
    reply.array(found.len());
    for Found { member, score, place, distance_m } in found {
        if extras > 0 {
            reply.array(extras + 1);
        }
        reply.bulk(member);
        if search.with_distance {
            answer_distance(distance_m / search.unit.0, reply);
        }
        if search.with_hash {
            reply.integer(*score as i64);
        }
        if search.with_place {
            answer_place(*place, reply);
        }
    }
}

fn store(keys: &mut Keys<'_>, destination: &[u8], found: &[Found], search: &Search, event: &'static str) {
    if found.is_empty() {
        if keys.remove(destination) {
            keys.effects.changed(1);
            keys.event(EventClass::GENERIC, "del", destination);
        }
        return;
    }
    let limits = keys.limits();
    let longest = found.iter().map(|found| found.member.len()).max().unwrap_or(0);
    let members = found.iter().map(|Found { member, score, distance_m, .. }| {
        let score = if search.store_distances { distance_m / search.unit.0 } else { *score };
        // Distances are numbers; one that is not, of places a sorted set made up, is as far as can be.
        (member, if score.is_nan() { f64::INFINITY } else { score })
    });
    let set = SortedSet::of_distinct(members, longest, limits);
    keys.put(destination, Value::from(set), None);
    keys.effects.changed(found.len() as u64);
    keys.event(EventClass::SORTED_SET, event, destination);
}

/// What all the commands do. `key` is the index in argv of the key that is searched, `options` that of the first option.
fn run(keys: &mut Keys<'_>, argv: &[&[u8]], kind: Kind, stores: bool, reply: &mut Reply) -> Answer {
    let storing_search = kind == Kind::Search && stores;
    let key_at = if storing_search { 2 } else { 1 };
    let mut args = Args::new(argv, key_at);
    let key = args.take()?;
    let set = keys.get::<SortedSet>(key)?;
    let mut search = Search::new();
    match search.parse_center(kind, &mut args, set) {
        // Nobody asks how far around a member that is nowhere.
        Err(_) if set.is_none() && kind == Kind::AroundMember => args = Args::new(argv, first_option(kind)),
        center => center?,
    }
    search.parse_options(kind, stores, &mut args, set)?;
    if storing_search {
        search.store = Some(1);
    }
    search.check(kind, argv[0])?;
    let found = set.map_or(Ok(Vec::new()), |set| find(set, &search))?;
    let Some(destination) = search.store else {
        answer(&found, &search, reply);
        return Ok(());
    };
    let event = if kind == Kind::Search { "geosearchstore" } else { "georadiusstore" };
    store(keys, argv[destination], &found, &search, event);
    reply.count(found.len());
    Ok(())
}

/// Where the options of the elder commands begin.
fn first_option(kind: Kind) -> usize {
    match kind {
        Kind::AroundPlace => 6,
        Kind::AroundMember => 5,
        Kind::Search => 2,
    }
}

pub(super) fn geosearch(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    run(keys, args.argv(), Kind::Search, false, reply)
}

pub(super) fn geosearchstore(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    run(keys, args.argv(), Kind::Search, true, reply)
}

pub(super) fn georadius(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    run(keys, args.argv(), Kind::AroundPlace, true, reply)
}

pub(super) fn georadius_ro(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    run(keys, args.argv(), Kind::AroundPlace, false, reply)
}

pub(super) fn georadiusbymember(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    run(keys, args.argv(), Kind::AroundMember, true, reply)
}

pub(super) fn georadiusbymember_ro(keys: &mut Keys<'_>, args: Args<'_>, reply: &mut Reply) -> Answer {
    run(keys, args.argv(), Kind::AroundMember, false, reply)
}

// ---- keys ----

/// A radius search reads its key and overwrites the destination.
fn radius_keys(list: &mut KeyList<'_, '_>, kind: Kind) {
    list.push(1, READS);
    let mut search = Search::new();
    let mut args = Args::new(list.argv, first_option(kind).min(list.argv.len()));
    if search.parse_options(kind, true, &mut args, None).is_ok()
        && let Some(store) = search.store
    {
        list.push(store, OVERWRITES);
    }
}

pub(super) fn georadius_keys(list: &mut KeyList<'_, '_>) {
    radius_keys(list, Kind::AroundPlace);
}

pub(super) fn georadiusbymember_keys(list: &mut KeyList<'_, '_>) {
    radius_keys(list, Kind::AroundMember);
}
