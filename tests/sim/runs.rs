//! The tests: seeds without a bug are clean, repeat themselves, and every planted bug is caught within a few of them.

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use tracing::Level;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use keyward_simulated::planted::{Bug, MARK};

use crate::chance;
use crate::stage::{self, Weather};

/// Tells the process of a seed what to run: the seed, the weather, and the bug if there is one.
const RUN: &str = "KEYWARD_SIM_RUN";

/// Seeds of every day, in each weather.
const SEEDS: u64 = 2;

/// A bug is caught within so many.
const SEEDS_FOR_A_BUG: u64 = 12;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().and_then(|text| text.parse().ok())
}

/// What the process of a seed said.
#[derive(Clone)]
struct Said {
    clean: bool,
    text: String,
}

impl Said {
    /// The line that begins like this, without its beginning.
    fn line(&self, begin: &str) -> Option<&str> {
        self.text.lines().find_map(|line| line.split_once(begin).map(|(_, rest)| rest))
    }
}

fn run(seed: u64, weather: Weather, bug: Option<Bug>) -> Said {
    let what = bug.map_or_else(|| format!("{seed}:{weather:?}"), |bug| format!("{seed}:{weather:?}:{bug}"));
    let this = env::current_exe().expect("a running test has a file");
    let ran = Command::new("timeout")
        .args(["300"])
        .arg(this)
        .args(["--exact", "runs::of_a_seed", "--ignored", "--nocapture", "--test-threads=1"])
        .env(RUN, what)
        .output();
    let output = ran.expect("a test can be run once more");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Said { clean: output.status.success(), text }
}

/// The same without a bug; a second time it is remembered.
fn sound(seed: u64, weather: Weather) -> Said {
    static KNOWN: Mutex<BTreeMap<(u64, Weather), Said>> = Mutex::new(BTreeMap::new());
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(said) = known().get(&(seed, weather)) {
        return said.clone();
    }
    let said = run(seed, weather, None);
    known().insert((seed, weather), said.clone());
    said
}

fn must_be_clean(seed: u64, weather: Weather) {
    let said = sound(seed, weather);
    println!("seed {seed}, {weather:?}: {}", said.line("clean: ").unwrap_or("not clean"));
    assert!(said.clean, "{}\nagain: KEYWARD_SIM_SEED={seed} tests/run sim ({weather:?})", said.text);
}

/// The process of one seed. Run by the others, and by hand with `KEYWARD_SIM_SEED`.
#[test]
#[ignore = "the others run it"]
fn of_a_seed() {
    let what = env::var(RUN).expect("the others say what to run");
    let mut words = what.split(':');
    let seed: u64 = words.next().and_then(|seed| seed.parse().ok()).expect("a seed is a number");
    let weather = words.next().and_then(|name| Weather::ALL.into_iter().find(|one| format!("{one:?}") == name));
    let bug = words
        .next()
        .map(|name| *Bug::ALL.iter().find(|bug| bug.to_string() == name).expect("the others know the bugs"));
    // From here on nothing on this thread is real: what draws its first lot of chance before would keep it.
    chance::begin(seed);
    let of = match env::var("KEYWARD_SIM_LOG").as_deref() {
        Ok("debug") => Targets::new().with_default(Level::DEBUG),
        Ok("wire") => Targets::new().with_target("turmoil", Level::TRACE),
        _ => Targets::new(),
    };
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines.with_filter(of)).init();
    let dir = env::temp_dir().join(format!("keyward-sim-{}", std::process::id()));
    let outcome = stage::run(seed, weather.expect("the others know the weather"), bug, &dir);
    let _ = std::fs::remove_dir_all(&dir);
    match outcome {
        Ok(tally) => println!("clean: {tally}"),
        Err(wrong) => panic!("wrong: {wrong}"),
    }
}

#[test]
fn no_fault_breaks_a_promise() {
    let first = number("KEYWARD_SIM_SEED");
    let seeds = first.map_or_else(|| 1..=number("KEYWARD_SIM_SEEDS").unwrap_or(SEEDS), |one| one..=one);
    for seed in seeds {
        Weather::ALL.into_iter().for_each(|weather| must_be_clean(seed, weather));
    }
}

#[test]
fn a_seed_repeats_itself() {
    for weather in [Weather::Cuts, Weather::Mixed] {
        let (once, again) = (sound(1, weather), run(1, weather, None));
        assert!(once.clean, "{}", once.text);
        assert_eq!(
            once.line("clean: "),
            again.line("clean: "),
            "{weather:?}: KEYWARD_SIM_LOG=wire says where they part"
        );
    }
}

#[test]
fn this_binary_can_have_bugs_planted() {
    // Its counterpart looks for the same mark in the binary that is shipped (tests/it).
    let bytes = std::fs::read(env::current_exe().expect("a running test has a file")).expect("it can be read");
    assert!(bytes.windows(MARK.len()).any(|bytes| bytes == MARK.as_bytes()));
    assert!(PathBuf::from(env!("CARGO_MANIFEST_DIR")).ends_with("tests/sim"));
}

/// Runs seeds with the bug, from the one on that is known to catch it, until somebody objects; without the bug nobody does.
fn caught(bug: Bug, weather: Weather, known: u64, by: &[&str]) {
    let first = number("KEYWARD_SIM_SEED").unwrap_or(known);
    for seed in first..first + SEEDS_FOR_A_BUG {
        let said = run(seed, weather, Some(bug));
        if said.clean {
            continue;
        }
        let wrong = said.line("wrong: ").unwrap_or(&said.text);
        println!("{bug} is caught by seed {seed}, {weather:?}: {wrong}");
        assert!(by.iter().any(|invariant| wrong.starts_with(invariant)), "{}", said.text);
        return must_be_clean(seed, weather);
    }
    panic!("{bug} was not caught by seeds {first} to {}", first + SEEDS_FOR_A_BUG - 1);
}

macro_rules! caught {
    ($($test:ident: $bug:ident in $weather:ident $known:literal by $($invariant:literal)|+;)+) => {$(
        #[test]
        fn $test() {
            caught(Bug::$bug, Weather::$weather, $known, &[$($invariant),+]);
        }
    )+};
}

caught! {
    a_grant_without_a_quorum_is_caught: GrantWithoutQuorum in Cuts 3 by "I1";
    a_new_leader_that_does_not_wait_is_caught: NewLeaderDoesNotWait in Mixed 6 by "I1";
    a_lease_from_its_receipt_is_caught: LeaseFromReceipt in Calls 4 by "I1";
    a_lease_that_demands_nothing_is_caught: SkipMustApply in Calls 2 by "I1";
    effects_of_an_old_epoch_are_caught: OldEpochAccepted in Quiet 1 by "I2" | "I3" | "I6" | "I8";
    a_set_that_shrinks_too_early_is_caught: ShrinkBeforeCommit in Cuts 1 by "I2" | "I3";
    a_restarted_primary_that_goes_on_is_caught: KeepIncarnation in Crashes 1 by "I2" | "I3" | "I4" | "I6" | "I8";
    a_waiting_client_that_is_not_asked_again_is_caught: BlockedNotRechecked in Mixed 1 by "I1";
    a_session_that_keeps_its_rules_is_caught: LoginNotRechecked in Mixed 1 by "I1";
    a_queue_that_is_not_asked_again_is_caught: QueueNotRechecked in Mixed 1 by "I1";
    a_sync_that_is_dropped_is_caught: DropSync in Crashes 1 by "I2" | "I4" | "I5" | "I6";
    an_answer_before_the_sync_is_caught: AnswerBeforeSync in Crashes 1 by "I2" | "I4" | "I5" | "I6";
    a_vote_before_the_sync_is_caught: VoteBeforeSync in Crashes 1 by "I2" | "I4" | "I5" | "I6";
}
