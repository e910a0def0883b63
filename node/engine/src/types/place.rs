//! Places on earth as scores of a sorted set: 52 bits that interleave longitude and latitude, bit for bit as Redis does.
//!
//! ```text
//!   score   lon 25, lat 25, lon 24, lat 24, … lon 0, lat 0      Web Mercator's square: latitudes up to ±85.05
//! ```
//! Places that are near each other mostly share leading bits, so that a region is a few ranges of scores: a [`Cell`] is
//! one. Knows no sorted set and no command. The arithmetic is in doubles, step by step in the order Redis takes: a
//! rounding more or less would move a member by a score.

use std::cmp::Ordering;

/// Longitudes reach from minus this to this, in degrees.
pub const LONGITUDE_MAX: f64 = 180.0;
/// Latitudes reach from minus this to this, in degrees.
pub const LATITUDE_MAX: f64 = 85.051_128_78;

/// Bits of each coordinate in a score.
const STEPS_MAX: u32 = 26;
const EARTH_RADIUS_M: f64 = 6_372_797.560_856;
/// Half the equator in the Mercator projection, in meters.
const MERCATOR_MAX_M: f64 = 20_037_726.37;

/// A place, in degrees.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Place {
    /// East of Greenwich, or west if negative.
    pub longitude: f64,
    /// North of the equator, or south if negative.
    pub latitude: f64,
}

/// A rectangle of degrees.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Bounds {
    min: Place,
    max: Place,
}

impl Bounds {
    fn within(longitude_max: f64, latitude_max: f64) -> Bounds {
        Bounds {
            min: Place { longitude: -longitude_max, latitude: -latitude_max },
            max: Place { longitude: longitude_max, latitude: latitude_max },
        }
    }

    /// What scores can say.
    fn earth() -> Bounds {
        Bounds::within(LONGITUDE_MAX, LATITUDE_MAX)
    }
}

/// The places whose scores begin with the same bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell {
    /// Interleaved; `2 * steps` of them count.
    bits: u64,
    steps: u32,
}

impl Cell {
    fn of(place: Place, steps: u32, bounds: Bounds) -> Cell {
        let inside = (bounds.min.longitude..=bounds.max.longitude).contains(&place.longitude)
            && (bounds.min.latitude..=bounds.max.latitude).contains(&place.latitude);
        if !inside {
            // The middle of a polygon around a pole; Redis begins in the southwest then.
            return Cell { bits: 0, steps };
        }
        let cells = (1u64 << steps) as f64;
        let share = |value: f64, min: f64, max: f64| ((value - min) / (max - min) * cells) as u32;
        let longitude = share(place.longitude, bounds.min.longitude, bounds.max.longitude);
        let latitude = share(place.latitude, bounds.min.latitude, bounds.max.latitude);
        Cell { bits: spread(latitude) | spread(longitude) << 1, steps }
    }

    fn bounds(self) -> Bounds {
        let earth = Bounds::earth();
        let cells = (1u64 << self.steps) as f64;
        let (latitude, longitude) = (f64::from(gather(self.bits)), f64::from(gather(self.bits >> 1)));
        let span_latitude = earth.max.latitude - earth.min.latitude;
        let span_longitude = earth.max.longitude - earth.min.longitude;
        let corner = |longitude: f64, latitude: f64| Place {
            longitude: earth.min.longitude + longitude / cells * span_longitude,
            latitude: earth.min.latitude + latitude / cells * span_latitude,
        };
        Bounds { min: corner(longitude, latitude), max: corner(longitude + 1.0, latitude + 1.0) }
    }

    /// The cell so many cells to the east and to the north, round the world if need be.
    fn moved(self, east: i32, north: i32) -> Cell {
        let mask = ((1u64 << self.steps) - 1) as u32;
        // The very edge of the earth has one bit more, which only a step in its direction takes away.
        let step = |value: u32, by: i32| if by == 0 { value } else { value.wrapping_add_signed(by) & mask };
        let latitude = step(gather(self.bits), north);
        let longitude = step(gather(self.bits >> 1), east);
        Cell { bits: spread(latitude) | spread(longitude) << 1, steps: self.steps }
    }

    /// The scores of its places: from the first up to, but without, the second.
    pub fn scores(self) -> (f64, f64) {
        let shift = 2 * (STEPS_MAX - self.steps);
        ((self.bits << shift) as f64, ((self.bits + 1) << shift) as f64)
    }
}

/// Puts a zero before every bit.
fn spread(value: u32) -> u64 {
    let mut bits = u64::from(value);
    for (shift, mask) in [
        (16, 0x0000_ffff_0000_ffff),
        (8, 0x00ff_00ff_00ff_00ff),
        (4, 0x0f0f_0f0f_0f0f_0f0f),
        (2, 0x3333_3333_3333_3333),
        (1, 0x5555_5555_5555_5555),
    ] {
        bits = (bits | bits << shift) & mask;
    }
    bits
}

/// Takes every second bit, the lowest first.
fn gather(bits: u64) -> u32 {
    let mut bits = bits & 0x5555_5555_5555_5555;
    for (shift, mask) in [
        (1, 0x3333_3333_3333_3333),
        (2, 0x0f0f_0f0f_0f0f_0f0f),
        (4, 0x00ff_00ff_00ff_00ff),
        (8, 0x0000_ffff_0000_ffff),
        (16, 0x0000_0000_ffff_ffff),
    ] {
        bits = (bits | bits >> shift) & mask;
    }
    bits as u32
}

/// The score of a place, an integer of 52 bits.
pub fn score(place: Place) -> u64 {
    Cell::of(place, STEPS_MAX, Bounds::earth()).bits
}

/// The middle of the smallest cell a score means. Any score means one: those that no place has are taken for their bits.
pub fn place(score: f64) -> Place {
    const BEYOND_BITS: f64 = 18_446_744_073_709_551_616.0;
    let bits = match score {
        score if score < 0.0 => score as i64 as u64,
        score if score < BEYOND_BITS => score as u64,
        _ => 0,
    };
    let Bounds { min, max } = Cell { bits, steps: STEPS_MAX }.bounds();
    Place {
        longitude: ((min.longitude + max.longitude) / 2.0).clamp(-LONGITUDE_MAX, LONGITUDE_MAX),
        latitude: ((min.latitude + max.latitude) / 2.0).clamp(-LATITUDE_MAX, LATITUDE_MAX),
    }
}

/// The geohash text (<https://en.wikipedia.org/wiki/Geohash>) of the place a score means. The last of its eleven letters
/// would need more bits than a score has, and is always the same.
pub fn geohash_text(score: f64) -> [u8; 11] {
    const LETTERS: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";
    let Cell { bits, .. } = Cell::of(place(score), STEPS_MAX, Bounds::within(LONGITUDE_MAX, 90.0));
    let mut text = [LETTERS[0]; 11];
    for (at, letter) in text[..10].iter_mut().enumerate() {
        *letter = LETTERS[(bits >> (2 * STEPS_MAX as usize - 5 * (at + 1)) & 0x1f) as usize];
    }
    text
}

const DEGREE: f64 = std::f64::consts::PI / 180.0;

fn radians(degrees: f64) -> f64 {
    degrees * DEGREE
}

fn degrees(radians: f64) -> f64 {
    radians / DEGREE
}

fn distance_along_meridian_m(latitude: f64, other: f64) -> f64 {
    EARTH_RADIUS_M * (radians(other) - radians(latitude)).abs()
}

/// The length of the great circle between two places, in meters, by the haversine formula.
pub fn distance_m(from: Place, to: Place) -> f64 {
    let v = ((radians(to.longitude) - radians(from.longitude)) / 2.0).sin();
    if v == 0.0 {
        return distance_along_meridian_m(from.latitude, to.latitude);
    }
    let (latitude, other) = (radians(from.latitude), radians(to.latitude));
    let u = ((other - latitude) / 2.0).sin();
    let a = u * u + latitude.cos() * other.cos() * v * v;
    2.0 * EARTH_RADIUS_M * a.sqrt().asin()
}

/// Where to search.
#[derive(Clone, PartialEq, Debug)]
pub enum Area {
    /// Around a place.
    Circle {
        /// The place.
        center: Place,
        /// In meters.
        radius_m: f64,
    },
    /// Around a place, its sides along the coordinates.
    Rectangle {
        /// The place.
        center: Place,
        /// In meters.
        width_m: f64,
        /// In meters.
        height_m: f64,
    },
    /// Inside these corners, three at least.
    Polygon(Vec<Place>),
}

impl Area {
    /// The distance of a place from the middle, in meters, if the place is inside. `middle` is [`Area::middle`].
    pub fn distance_inside_m(&self, middle: Place, place: Place) -> Option<f64> {
        match self {
            Area::Circle { radius_m, .. } => {
                let distance = distance_m(middle, place);
                (distance.partial_cmp(radius_m) != Some(Ordering::Greater)).then_some(distance)
            }
            Area::Rectangle { width_m, height_m, .. } => {
                if distance_along_meridian_m(place.latitude, middle.latitude) > height_m / 2.0 {
                    return None;
                }
                let at_its_latitude = Place { latitude: place.latitude, ..middle };
                if distance_m(place, at_its_latitude) > width_m / 2.0 {
                    return None;
                }
                Some(distance_m(middle, place))
            }
            Area::Polygon(corners) => encloses(corners, place).then(|| distance_m(middle, place)),
        }
    }

    /// The place distances are measured from: the center, or the corners' center of mass.
    pub fn middle(&self) -> Place {
        match self {
            Area::Circle { center, .. } | Area::Rectangle { center, .. } => *center,
            Area::Polygon(corners) => {
                let (mut x, mut y, mut z) = (0.0, 0.0, 0.0);
                for corner in corners {
                    let (longitude, latitude) = (radians(corner.longitude), radians(corner.latitude));
                    x += EARTH_RADIUS_M * latitude.cos() * longitude.cos();
                    y += EARTH_RADIUS_M * latitude.cos() * longitude.sin();
                    z += EARTH_RADIUS_M * latitude.sin();
                }
                let count = corners.len() as f64;
                let (x, y, z) = (x / count, y / count, z / count);
                Place { longitude: degrees(y.atan2(x)), latitude: degrees(z.atan2((x * x + y * y).sqrt())) }
            }
        }
    }

    fn bounds(&self) -> Bounds {
        let (center, half_width_m, half_height_m) = match self {
            Area::Circle { center, radius_m } => (center, *radius_m, *radius_m),
            Area::Rectangle { center, width_m, height_m } => (center, width_m / 2.0, height_m / 2.0),
            Area::Polygon(corners) => return bounds_of(corners),
        };
        let up = degrees(half_height_m / EARTH_RADIUS_M);
        // The parallel nearer to the pole is shorter, so the same width spans more degrees there.
        let nearer_to_pole = if center.latitude < 0.0 { center.latitude - up } else { center.latitude + up };
        let aside = degrees(half_width_m / EARTH_RADIUS_M / radians(nearer_to_pole).cos());
        Bounds {
            min: Place { longitude: center.longitude - aside, latitude: center.latitude - up },
            max: Place { longitude: center.longitude + aside, latitude: center.latitude + up },
        }
    }

    /// How far from the middle a place of the area may be, in meters.
    fn reach_m(&self, middle: Place, bounds: Bounds) -> f64 {
        match self {
            Area::Circle { radius_m, .. } => *radius_m,
            Area::Rectangle { width_m, height_m, .. } => {
                ((width_m / 2.0) * (width_m / 2.0) + (height_m / 2.0) * (height_m / 2.0)).sqrt()
            }
            Area::Polygon(_) => {
                let Bounds { min, max } = bounds;
                let corners = [
                    min,
                    max,
                    Place { longitude: min.longitude, latitude: max.latitude },
                    Place { longitude: max.longitude, latitude: min.latitude },
                ];
                corners.into_iter().map(|corner| distance_m(middle, corner)).fold(0.0, f64::max)
            }
        }
    }

    /// Cells that together hold every place of the area, in the order Redis searches them: the middle one first. Where the
    /// area is as wide as the earth, neighbors on two sides may be the same cell; in a row it comes once.
    pub fn cells(&self) -> Vec<Cell> {
        let middle = self.middle();
        let bounds = self.bounds();
        let mut steps = steps_for(self.reach_m(middle, bounds), middle.latitude);
        let mut center = Cell::of(middle, steps, Bounds::earth());
        let too_small = center.moved(0, 1).bounds().max.latitude < bounds.max.latitude
            || center.moved(0, -1).bounds().min.latitude > bounds.min.latitude
            || center.moved(1, 0).bounds().max.longitude < bounds.max.longitude
            || center.moved(-1, 0).bounds().min.longitude > bounds.min.longitude;
        if steps > 1 && too_small {
            steps -= 1;
            center = Cell::of(middle, steps, Bounds::earth());
        }
        let here = center.bounds();
        // Where the middle cell reaches past the area, nobody needs to look at the neighbors on that side.
        let needed = |east: i32, north: i32| {
            steps < 2
                || !(north < 0 && here.min.latitude < bounds.min.latitude
                    || north > 0 && here.max.latitude > bounds.max.latitude
                    || east < 0 && here.min.longitude < bounds.min.longitude
                    || east > 0 && here.max.longitude > bounds.max.longitude)
        };
        const AROUND: [(i32, i32); 9] = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)];
        let mut cells: Vec<Cell> = Vec::with_capacity(AROUND.len());
        for (east, north) in AROUND.into_iter().filter(|(east, north)| needed(*east, *north)) {
            let cell = center.moved(east, north);
            // The middle cell is not compared with, as in Redis.
            let repeats = cells.len() > 1 && cells.last() == Some(&cell);
            if !repeats {
                cells.push(cell);
            }
        }
        cells
    }
}

/// How fine cells may be so that the middle one and its neighbors cover so much around a place.
fn steps_for(mut reach_m: f64, latitude: f64) -> u32 {
    if reach_m == 0.0 {
        return STEPS_MAX;
    }
    let mut steps = 1i32;
    while reach_m < MERCATOR_MAX_M {
        reach_m *= 2.0;
        steps += 1;
    }
    steps -= 2;
    // Towards the poles meters are more degrees.
    if latitude.abs() > 66.0 {
        steps -= if latitude.abs() > 80.0 { 2 } else { 1 };
    }
    steps.clamp(1, STEPS_MAX as i32) as u32
}

fn bounds_of(corners: &[Place]) -> Bounds {
    // Begins inside out: the first corner turns it.
    let mut bounds = Bounds::within(-LONGITUDE_MAX, -LATITUDE_MAX);
    for corner in corners {
        bounds.min.longitude = bounds.min.longitude.min(corner.longitude);
        bounds.min.latitude = bounds.min.latitude.min(corner.latitude);
        bounds.max.longitude = bounds.max.longitude.max(corner.longitude);
        bounds.max.latitude = bounds.max.latitude.max(corner.latitude);
    }
    bounds
}

/// Whether a place lies inside a polygon: a ray to the east crosses its sides an odd number of times.
fn encloses(corners: &[Place], place: Place) -> bool {
    let Some(mut previous) = corners.last() else { return false };
    let mut inside = false;
    for corner in corners {
        let straddles = (corner.latitude > place.latitude) != (previous.latitude > place.latitude);
        if straddles {
            let crossing = (previous.longitude - corner.longitude) * (place.latitude - corner.latitude)
                / (previous.latitude - corner.latitude)
                + corner.longitude;
            inside ^= place.longitude < crossing;
        }
        previous = corner;
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;

    const PALERMO: Place = Place { longitude: 13.361_389, latitude: 38.115_556 };
    const CATANIA: Place = Place { longitude: 15.087_269, latitude: 37.502_669 };

    #[test]
    fn scores_are_those_of_redis() {
        assert_eq!(score(PALERMO), 3_479_099_956_230_698);
        assert_eq!(score(CATANIA), 3_479_447_370_796_909);
        assert_eq!(&geohash_text(3_479_099_956_230_698.0), b"sqc8b49rny0");
    }

    #[test]
    fn a_place_survives_its_score_to_a_meter() {
        let there_and_back = place(score(PALERMO) as f64);
        assert!(distance_m(PALERMO, there_and_back) < 1.0);
        assert_eq!(format!("{:.4}", distance_m(there_and_back, place(score(CATANIA) as f64))), "166274.1516");
    }

    #[test]
    fn any_score_means_some_place() {
        for score in [f64::INFINITY, f64::NEG_INFINITY, -1.0, 1e300, f64::MAX, 0.5] {
            let Place { longitude, latitude } = place(score);
            assert!(longitude.abs() <= LONGITUDE_MAX && latitude.abs() <= LATITUDE_MAX);
            geohash_text(score);
        }
    }

    #[test]
    fn interleaving_is_undone() {
        for value in [0, 1, 0x5555_5555, u32::MAX, 0x1234_5678] {
            assert_eq!(gather(spread(value)), value);
        }
    }

    #[test]
    fn cells_cover_their_area() {
        let mut dice = 3u64;
        let mut roll = move |most: f64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((dice >> 11) as f64 / (1u64 << 53) as f64) * most
        };
        for _ in 0..20_000 {
            let center = Place { longitude: roll(360.0) - 180.0, latitude: roll(160.0) - 80.0 };
            let radius_m = roll(200_000.0);
            let area = Area::Circle { center, radius_m };
            let near = Place {
                longitude: center.longitude + (roll(4.0) - 2.0),
                latitude: (center.latitude + (roll(4.0) - 2.0)).clamp(-LATITUDE_MAX, LATITUDE_MAX),
            };
            if near.longitude.abs() > LONGITUDE_MAX || area.distance_inside_m(center, near).is_none() {
                continue;
            }
            let score = score(near) as f64;
            let covered = area.cells().into_iter().any(|cell| (cell.scores().0..cell.scores().1).contains(&score));
            assert!(covered, "{near:?} in {area:?}");
        }
    }
}
