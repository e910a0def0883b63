//! The simulated world: three nodes, a host full of clients, and what happens to them, all from one seed.
//!
//! Nodes are crashed (at times with the power), cut off wholly, one way, or from one other, by links that lose or that hold what
//! is sent; their clocks run apart by up to a fiftieth and are days apart, their disks and links are slow or fast. After that
//! everything is mended, and must be well again. It looks into the nodes at every moment and judges at the end
//! ([`crate::judge`]). Which faults are frequent is the [`Weather`]; who is struck is chance, and oftener whoever leads or serves.

use std::cell::RefCell;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use keyward_simulated::config::{Config, Flags};
use keyward_simulated::control::log_disk;
use keyward_simulated::node;
use keyward_simulated::planted::{self, Bug};
use keyward_simulated::world::{self, Host};
use turmoil::Sim;

use crate::checks::Finals;
use crate::dice::Dice;
use crate::judge::{self, Watcher};
use crate::work::{self, Notes};

/// Which faults come oftener than others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weather {
    /// All of them, many at a time.
    Mixed,
    /// Processes end, and machines lose their power: also at the moment they vote.
    Crashes,
    /// Calls between nodes hang or are answered late, while everything else between them goes on.
    Calls,
    /// Nothing arrives, for a long time.
    Cuts,
    /// As with calls, while clients write little: then only promises tell who may answer.
    Quiet,
    /// As mixed, for two shard groups: each has a primary, epochs and members in sync of its own.
    Groups,
}

impl Weather {
    /// All there are.
    pub const ALL: [Weather; 6] =
        [Weather::Mixed, Weather::Crashes, Weather::Calls, Weather::Cuts, Weather::Quiet, Weather::Groups];

    fn groups(self) -> usize {
        if self == Weather::Groups { 2 } else { 1 }
    }
}

/// Between two looks of the world at everything.
const TICK: Duration = Duration::from_millis(2);

/// Until then the cluster forms, and users are made.
const BEGIN: Duration = Duration::from_secs(8);

/// For so long bad things happen.
const TROUBLE: Duration = Duration::from_secs(24);

/// In this time everything must be well again.
const RECOVERY: Duration = Duration::from_secs(40);

/// The clients' host, and how many nodes there are.
const CLIENTS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1));
const NODES: u8 = 3;

/// What a run came to.
#[derive(Default)]
pub struct Tally {
    pub acknowledged: usize,
    pub reigns: usize,
    pub turns: usize,
    pub probes: usize,
    /// Of everything that was seen, in order.
    pub digest: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { acknowledged, reigns, turns, probes, digest } = self;
        write!(
            f,
            "{acknowledged} answers, {reigns} reigns, {turns} changes of rights, {probes} probes, digest {digest:x}"
        )
    }
}

fn ip(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, number))
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: Flags,
}

fn config(number: u8, groups: usize, dir: &Path) -> Result<Config, String> {
    let members: Vec<String> = (1..=NODES).map(|number| format!("n{number}={}:9379", ip(number))).collect();
    let dir = dir.display();
    let words = [
        "keyward".to_owned(),
        format!("--name=n{number}"),
        format!("--data-dir={dir}"),
        format!("--bind=0.0.0.0:{}", crate::client::PORT),
        "--peer-bind=0.0.0.0:9379".to_owned(),
        format!("--advertise-host={}", ip(number)),
        format!("--members={}", members.join(",")),
        "--cluster-secret=simulated-secret".to_owned(),
        "--requirepass=pw".to_owned(),
        "--threads=1".to_owned(),
        format!("--groups={groups}"),
        "--shards=16".to_owned(),
        "--save=".to_owned(),
    ];
    let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
    Config::load(&line.flags).map_err(|problems| problems.to_string())
}

/// One thing that is wrong for a while.
enum Fault {
    Down(u8),
    /// Calls hang, and everything else goes on.
    Hanging {
        from: IpAddr,
        to: IpAddr,
    },
    /// What a node is told is held; next, what it says is lost.
    Late {
        one: u8,
        step: Step,
    },
    Cut {
        from: IpAddr,
        to: IpAddr,
        holds: bool,
    },
}

/// How an answer comes late, and nothing after it.
#[derive(Clone, Copy)]
enum Step {
    /// What the node says is lost from here on.
    Mute,
    /// What it was told arrives.
    Told,
    /// It is cut off.
    CutOff,
}

/// So long a node is still heard while what it is told is held.
const HEARD: Duration = Duration::from_millis(300);

/// Until what was held has arrived.
const ARRIVING: Duration = Duration::from_millis(60);

struct Stage<'a> {
    sim: Sim<'a>,
    weather: Weather,
    dice: Dice,
    /// How often each node had voted when it was decided that the next to vote loses its power.
    ambush: Option<Vec<u64>>,
    dir: PathBuf,
    /// Until when each lasts.
    faults: Vec<(Duration, Fault)>,
    story: Rc<RefCell<Vec<String>>>,
}

/// Runs a seed on a thread that is simulated ([`crate::chance`]), with a bug or without. The error says what is wrong, and how it came.
pub fn run(seed: u64, weather: Weather, bug: Option<Bug>, dir: &Path) -> Result<Tally, String> {
    let groups = weather.groups();
    let calm = if weather == Weather::Quiet { 10 } else { 1 };
    planted::plant(bug);
    // Quiet or not, the same happens to the nodes.
    let dice_of = if weather == Weather::Quiet { Weather::Calls } else { weather };
    let mut dice = Dice::seeded(seed ^ (dice_of as u64) << 32);
    let slowest = [3, 8, 25][dice.below(3)];
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .tick_duration(TICK)
        .simulation_duration(Duration::from_secs(3600))
        .min_message_latency(Duration::from_micros(300))
        .max_message_latency(Duration::from_millis(slowest))
        .tcp_capacity(1 << 14)
        .build();
    let (story, mut hosts): (Rc<RefCell<Vec<String>>>, Vec<Host>) = Default::default();
    for number in 1..=NODES {
        let host = Host {
            ip: ip(number),
            offset_ms: dice.below(1_000_000_000) as u64,
            rate: 990 + dice.below(21) as u64,
            disk_ms: [0, 0, 1, 6][dice.below(4)],
        };
        hosts.push(host);
        let dir = dir.join(format!("n{number}"));
        sim.host(host.ip, move || {
            let dir = dir.clone();
            async move {
                world::enter(host);
                node::serve(config(number, groups, &dir)?).await?;
                Ok(())
            }
        });
    }
    story.borrow_mut().push(format!("links take up to {slowest} ms; {hosts:?}"));
    let notes = Rc::new(Notes::default());
    notes.calm.set(calm);
    let finals: Rc<RefCell<Option<Finals>>> = Rc::default();
    start_clients(&mut sim, &notes, &finals, dice.roll());
    let (faults, ambush) = (Vec::new(), None);
    let mut stage = Stage { sim, weather, dice, ambush, dir: dir.to_owned(), faults, story: Rc::clone(&story) };
    let outcome = stage.play(&notes, &finals);
    let told = || story.borrow().join("\n");
    // The processes end before what they stand on.
    drop(stage);
    outcome.map_err(|wrong| format!("{wrong}\n{}", told()))
}

fn start_clients(sim: &mut Sim<'_>, notes: &Rc<Notes>, finals: &Rc<RefCell<Option<Finals>>>, seed: u64) {
    let nodes: Vec<IpAddr> = (1..=NODES).map(ip).collect();
    let (notes, finals) = (Rc::clone(notes), Rc::clone(finals));
    sim.host(CLIENTS, move || {
        let (notes, finals, nodes) = (Rc::clone(&notes), Rc::clone(&finals), nodes.clone());
        async move {
            work::prepare(&nodes).await;
            let mut tasks = Vec::new();
            for number in 0..3 {
                tasks.push(tokio::task::spawn_local(work::sure(Rc::clone(&notes), nodes.clone(), seed ^ number)));
            }
            tasks.push(tokio::task::spawn_local(work::quick(Rc::clone(&notes), nodes.clone(), seed ^ 11)));
            tasks.push(tokio::task::spawn_local(work::owner(Rc::clone(&notes), nodes.clone(), seed ^ 12)));
            tasks.push(tokio::task::spawn_local(work::pusher(Rc::clone(&notes), nodes.clone(), seed ^ 13)));
            tasks.push(tokio::task::spawn_local(work::transactor(Rc::clone(&notes), nodes.clone(), seed ^ 14)));
            tasks.push(tokio::task::spawn_local(work::waiter(Rc::clone(&notes), nodes.clone(), seed ^ 15)));
            for node in nodes.clone() {
                tasks.push(tokio::task::spawn_local(work::reader(Rc::clone(&notes), node, seed ^ 16)));
            }
            for task in tasks {
                task.await?;
            }
            // What was asked last may still be on its way.
            for last in (0..20).rev() {
                match work::compare(&nodes).await {
                    Ok(held) => {
                        *finals.borrow_mut() = Some(judge::finals(held));
                        break;
                    }
                    Err(why) if last == 0 => return Err(format!("I6: {why}").into()),
                    Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
                }
            }
            Ok(())
        }
    });
}

impl Stage<'_> {
    fn play(&mut self, notes: &Rc<Notes>, finals: &Rc<RefCell<Option<Finals>>>) -> Result<Tally, String> {
        let mut watcher = Watcher::default();
        let (trouble_ends, mut next) = (BEGIN + TROUBLE, BEGIN);
        let mut well_since = None;
        while finals.borrow().is_none() {
            let now = self.sim.elapsed();
            world::set_now(now);
            self.mend(now);
            if now >= next && now < trouble_ends {
                self.hurt(now)?;
                next = now + self.pause();
            }
            if now >= trouble_ends && self.faults.is_empty() && !notes.over.get() {
                let well = judge::is_well(NODES.into(), (1..=NODES).map(ip));
                well_since = if well.is_ok() { well_since.or(Some(now)) } else { None };
                if well_since.is_some_and(|since| now >= since + Duration::from_secs(2)) {
                    notes.over.set(true);
                }
                if now > trouble_ends + RECOVERY {
                    return Err(format!("I8: not well again: {}", well.err().unwrap_or_default()));
                }
            }
            if now > trouble_ends + 2 * RECOVERY {
                return Err("I8: clients do not come to an end".to_owned());
            }
            self.sim.step().map_err(|error| match error.to_string() {
                judged if judged.starts_with("I6") => judged,
                other => format!("I5: something ended by itself: {other}"),
            })?;
            self.spring()?;
            watcher.look((1..=NODES).map(ip)).inspect_err(|wrong| self.tell(wrong.clone()))?;
        }
        let held = finals.borrow_mut().take().unwrap_or_default();
        judge::all(notes, &held)?;
        let history = notes.history.borrow();
        Ok(Tally {
            acknowledged: work::done(&history),
            reigns: watcher.reigns(),
            turns: notes.turns.borrow().iter().filter(|turn| turn.answered.is_some()).count(),
            probes: notes.probed.borrow().len(),
            digest: judge::digest(&history, &notes.probed.borrow()),
        })
    }

    fn tell(&self, what: String) {
        let told = format!("{:>9.3} s  {what}", self.sim.elapsed().as_secs_f64());
        if std::env::var("KEYWARD_SIM_LOG").is_ok() {
            eprintln!("{told}");
        }
        self.story.borrow_mut().push(told);
    }

    /// Until the next fault begins.
    fn pause(&mut self) -> Duration {
        let (least, most) = match self.weather {
            Weather::Mixed | Weather::Groups => (500, 3000),
            Weather::Crashes => (1500, 4500),
            Weather::Calls | Weather::Quiet => (6000, 10_000),
            Weather::Cuts => (11_000, 16_000),
        };
        Duration::from_millis(least + self.dice.below(most - least as usize) as u64)
    }

    /// Whoever leads or serves is struck oftener than by chance alone.
    fn somebody(&mut self) -> u8 {
        let (leader, primary) = judge::roles((1..=NODES).map(ip));
        let chosen = [leader, leader, primary, None][self.dice.below(4)];
        let chosen = chosen.and_then(|chosen| (1..=NODES).find(|number| ip(*number) == chosen));
        chosen.unwrap_or_else(|| 1 + self.dice.below(NODES.into()) as u8)
    }

    fn hurt(&mut self, now: Duration) -> Result<(), String> {
        let one = self.somebody();
        let brief = Duration::from_millis([120, 300, 900, 2000, 4500][self.dice.below(5)]);
        let long = Duration::from_millis(10_000 + self.dice.below(4000) as u64);
        match (self.weather, self.dice.below(9)) {
            (Weather::Mixed | Weather::Groups, 0 | 1) | (Weather::Crashes, 0..=5) => {
                self.crash(one, now + brief, false)
            }
            (Weather::Crashes, _) => {
                self.ambush = Some((1..=NODES).map(|number| log_disk::votes(&self.home(number))).collect());
                self.tell("the next to vote loses its power".to_owned());
                let (leader, _) = judge::roles((1..=NODES).map(ip));
                let leader = (1..=NODES).find(|number| Some(ip(*number)) == leader).unwrap_or(one);
                self.crash(leader, now + Duration::from_secs(4), false)
            }
            (Weather::Mixed | Weather::Groups, 2) | (Weather::Calls | Weather::Quiet, 0..=2) => {
                self.answer_late(one, now);
                Ok(())
            }
            (Weather::Mixed | Weather::Groups, 3 | 4) => {
                self.hang(one, now + brief);
                Ok(())
            }
            (Weather::Calls | Weather::Quiet, _) => {
                self.hang(one, now + long);
                Ok(())
            }
            (Weather::Mixed | Weather::Groups, kind) => {
                self.cut_some(one, kind, now, brief);
                Ok(())
            }
            (Weather::Cuts, kind) => {
                self.cut_some(one, 5 + kind % 4, now, long);
                Ok(())
            }
        }
    }

    fn home(&self, number: u8) -> PathBuf {
        self.dir.join(format!("n{number}"))
    }

    fn others(&self, one: u8) -> Vec<IpAddr> {
        (1..=NODES).filter(|other| *other != one).map(ip).collect()
    }

    /// Calls of a node to others hang, or of others to it, or both: all of them, or one that often leads.
    fn hang(&mut self, one: u8, until: Duration) {
        let (leader, primary) = judge::roles((1..=NODES).map(ip));
        let primary = (1..=NODES).find(|number| Some(ip(*number)) == primary);
        let one = primary.filter(|_| self.dice.one_in(2)).unwrap_or(one);
        let mut others = self.others(one);
        if self.dice.one_in(2) {
            let by_chance = others[self.dice.below(others.len())];
            others = vec![leader.filter(|leader| others.contains(leader)).unwrap_or(by_chance)];
        }
        let (from, to) = [(true, false), (false, true), (true, true), (true, true)][self.dice.below(4)];
        self.tell(format!("calls hang until {until:?}: from n{one} {from}, to n{one} {to}, {others:?}"));
        for other in others {
            for (hangs, from, to) in [(from, ip(one), other), (to, other, ip(one))] {
                if hangs {
                    world::hang(from, to, true);
                    self.faults.push((until, Fault::Hanging { from, to }));
                }
            }
        }
    }

    /// The last answers a node gets are late, and nothing it says afterwards arrives.
    fn answer_late(&mut self, one: u8, now: Duration) {
        // Who leads is answered by itself.
        let leads = judge::roles((1..=NODES).map(ip)).0 == Some(ip(one));
        let one = if leads { one % NODES + 1 } else { one };
        if self.is_down(one) || self.is_cut(ip(one)) {
            return;
        }
        self.tell(format!("n{one} is answered late, then cut off"));
        for other in self.others(one) {
            world::cut(ip(one), other, true);
            self.sim.hold(ip(one), other);
            self.sim.repair_oneway(ip(one), other);
        }
        self.faults.push((now + HEARD, Fault::Late { one, step: Step::Mute }));
    }

    fn late(&mut self, one: u8, step: Step, now: Duration) {
        for other in self.others(one) {
            match step {
                Step::Mute => {}
                Step::Told => self.sim.release(ip(one), other),
                Step::CutOff => self.sim.partition_oneway(other, ip(one)),
            }
            self.sim.partition_oneway(ip(one), other);
        }
        let (next, step) = match step {
            Step::Mute => (now + Duration::from_millis(1000), Step::Told),
            Step::Told => (now + ARRIVING, Step::CutOff),
            Step::CutOff => {
                for other in self.others(one) {
                    for (from, to) in [(ip(one), other), (other, ip(one))] {
                        world::cut(from, to, true);
                        self.faults.push((now + Duration::from_secs(8), Fault::Cut { from, to, holds: false }));
                    }
                }
                return;
            }
        };
        self.faults.push((next, Fault::Late { one, step }));
    }

    /// A cut of one kind.
    fn cut_some(&mut self, one: u8, kind: usize, now: Duration, lasts: Duration) {
        let (others, until) = (self.others(one), now + lasts);
        let holds = self.dice.one_in(2);
        match kind {
            5 | 6 => {
                self.tell(format!("n{one} is cut off for {lasts:?}, holding {holds}"));
                others.into_iter().for_each(|other| self.cut_both(ip(one), other, until, holds));
            }
            7 => {
                let other = others[self.dice.below(others.len())];
                self.tell(format!("n{one} and {other} are cut from each other for {lasts:?}, holding {holds}"));
                self.cut_both(ip(one), other, until, holds);
            }
            _ => {
                let inwards = self.dice.one_in(2);
                self.tell(format!("n{one} is cut off one way for {lasts:?}, inwards {inwards}"));
                for other in others {
                    let (from, to) = if inwards { (other, ip(one)) } else { (ip(one), other) };
                    self.cut(Fault::Cut { from, to, holds: false }, until);
                }
            }
        }
    }

    /// The power of whoever voted fails, if that was decided.
    fn spring(&mut self) -> Result<(), String> {
        let Some(voted) = &self.ambush else { return Ok(()) };
        let now = self.sim.elapsed();
        let has_voted = |number: &u8| log_disk::votes(&self.home(*number)) > voted[usize::from(*number) - 1];
        let Some(one) = (1..=NODES).find(has_voted) else { return Ok(()) };
        self.ambush = None;
        self.crash(one, now + Duration::from_millis(1500), true)
    }

    fn is_down(&self, one: u8) -> bool {
        self.faults.iter().any(|(_, fault)| matches!(fault, Fault::Down(down) if *down == one))
    }

    /// Whether a cut touches a node, now or soon.
    fn is_cut(&self, node: IpAddr) -> bool {
        let touches = |(_, fault): &(Duration, Fault)| match fault {
            Fault::Cut { from, to, .. } => *from == node || *to == node,
            Fault::Late { one, .. } => ip(*one) == node,
            Fault::Down(_) | Fault::Hanging { .. } => false,
        };
        self.faults.iter().any(touches)
    }

    /// Never the last memory that has every confirmed write: nobody promises to survive that.
    fn crash(&mut self, one: u8, until: Duration, power: bool) -> Result<(), String> {
        let others: Vec<IpAddr> =
            judge::in_sync((1..=NODES).map(ip)).into_iter().filter(|node| *node != ip(one)).collect();
        if self.is_down(one) || !others.iter().any(|other| !self.is_cut(*other)) {
            return Ok(());
        }
        let power = power || self.dice.one_in(2);
        self.tell(format!("n{one} crashes, with the power {power}"));
        self.sim.crash(ip(one));
        world::gone(ip(one));
        if power {
            let dir = self.home(one);
            log_disk::power_fails(&dir).map_err(|lost| format!("I5: n{one}: {lost}"))?;
            // What was written beside the log, and not synced, may be gone as well.
            let _ = std::fs::remove_file(dir.join("log.mark"));
        }
        self.faults.push((until, Fault::Down(one)));
        Ok(())
    }

    fn cut_both(&mut self, one: IpAddr, other: IpAddr, until: Duration, holds: bool) {
        if holds {
            return self.cut(Fault::Cut { from: one, to: other, holds }, until);
        }
        self.cut(Fault::Cut { from: one, to: other, holds }, until);
        self.cut(Fault::Cut { from: other, to: one, holds }, until);
    }

    fn cut(&mut self, fault: Fault, until: Duration) {
        let Fault::Cut { from, to, holds } = fault else { return };
        let touches = |known: &Fault| match known {
            Fault::Cut { from: a, to: b, .. } => (*a, *b) == (from, to) || (*b, *a) == (from, to) && holds,
            Fault::Late { one, .. } => ip(*one) == from || ip(*one) == to,
            Fault::Down(_) | Fault::Hanging { .. } => false,
        };
        // One thing at a time for each direction; what is held is not also lost.
        let pair = |known: &Fault| matches!(known, Fault::Cut { from: a, to: b, holds: true } if (*a, *b) == (from, to) || (*b, *a) == (from, to));
        if self.faults.iter().any(|(_, known)| touches(known) || pair(known)) {
            return;
        }
        world::cut(from, to, true);
        if holds {
            self.sim.hold(from, to);
        } else {
            self.sim.partition_oneway(from, to);
        }
        self.faults.push((until, Fault::Cut { from, to, holds }));
    }

    /// Ends what is over.
    fn mend(&mut self, now: Duration) {
        let (over, lasting) = std::mem::take(&mut self.faults).into_iter().partition(|(until, _)| *until <= now);
        self.faults = lasting;
        for (_, fault) in over {
            match fault {
                Fault::Down(one) => {
                    self.tell(format!("n{one} starts again"));
                    self.sim.bounce(ip(one));
                }
                Fault::Hanging { from, to } => {
                    self.tell(format!("calls from {from} to {to} go through again"));
                    world::hang(from, to, false);
                }
                Fault::Late { one, step } => self.late(one, step, now),
                Fault::Cut { from, to, holds } => {
                    self.tell(format!("{from} reaches {to} again"));
                    world::cut(from, to, false);
                    if holds { self.sim.release(from, to) } else { self.sim.repair_oneway(from, to) }
                }
            }
        }
    }
}
