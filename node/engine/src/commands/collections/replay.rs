//! Whether what a family leaves in the journal makes the same data elsewhere: random requests on one engine, their
//! effects on another.

use crate::testing::Engine;
use proptest::prelude::*;

/// Requests a family is tried with. In a template `K` stands for a key, `M` for a member, `N` for a number, `C` for a
/// small count, `I` for the id of an entry.
pub(crate) type Templates = &'static [&'static str];

const KEYS: [&str; 4] = ["a", "b", "c", "other"];
const MEMBERS: [&str; 8] =
    ["x", "y", "z", "1", "2", "-7", "''", "a-member-that-is-too-long-for-the-compact-form-of-a-collection-of-any-kind"];
const NUMBERS: [&str; 7] = ["0", "1", "-1", "2.5", "0.1", "inf", "7"];
const COUNTS: [&str; 4] = ["1", "2", "3", "100"];
const IDS: [&str; 8] = ["1-1", "1-2", "2-0", "3-5", "4", "1700000000000-0", "1700000000002-0", "0-0"];

fn filled(template: &str, draws: &[usize]) -> String {
    let mut draws = draws.iter().cycle();
    let mut pick = |from: &[&'static str]| from[draws.next().expect("cycles") % from.len()];
    let word = |word: &str| match word {
        "K" => pick(&KEYS).to_owned(),
        "M" => pick(&MEMBERS).to_owned(),
        "N" => pick(&NUMBERS).to_owned(),
        "C" => pick(&COUNTS).to_owned(),
        "I" => pick(&IDS).to_owned(),
        word => word.to_owned(),
    };
    template.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Some hundred requests, as indices of templates with what to fill in; every key expires now and then.
pub(crate) fn requests(templates: Templates) -> impl Strategy<Value = Vec<String>> {
    let draws = prop::collection::vec(0usize..64, 7);
    let request = (0..templates.len() + 2, draws).prop_map(move |(index, draws)| match templates.get(index) {
        Some(template) => filled(template, &draws),
        None if index == templates.len() => filled("PEXPIRE K 3", &draws),
        None => "later".to_owned(),
    });
    prop::collection::vec(request, 1..150)
}

/// Carries out the requests and finds the same data where only their effects were carried out; a request that changed
/// nothing leaves nothing behind.
pub(crate) fn check(requests: &[String]) {
    let mut engine = Engine::new(4);
    engine.words("SET other text");
    for request in requests {
        if request == "later" {
            engine.now += 2;
            // Now and then the sweep is faster than the next request.
            if engine.now % 3 == 0 {
                engine.sweep_fields(2);
            }
            continue;
        }
        let (before, noted) = (engine.contents(), engine.journal.len());
        engine.words(request);
        if engine.journal.len() == noted {
            assert_eq!(engine.contents(), before, "{request} changed something and did not say so");
        }
    }
    let mut copy = Engine::new(2);
    copy.now = engine.now;
    copy.apply(&engine.journal);
    copy.now = engine.now;
    assert_eq!(copy.contents(), engine.contents(), "{:?}", engine.journal_lines());
}
