//! Packed runs against a vector of byte strings.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::types::packed::{Item, Packed};

fn element() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<i64>().prop_map(|integer| integer.to_string().into_bytes()),
        (-40_000i64..40_000).prop_map(|integer| integer.to_string().into_bytes()),
        (0i64..200).prop_map(|integer| integer.to_string().into_bytes()),
        (-9_000_000i64..9_000_000).prop_map(|integer| integer.to_string().into_bytes()),
        vec(any::<u8>(), 0..80),
        vec(any::<u8>(), 120..140),
        vec(Just(b'x'), 4090..4100),
        vec(Just(b'y'), 16_380..16_390),
        Just(b"007".to_vec()),
        Just(b"-0".to_vec()),
    ]
}

#[derive(Debug, Clone)]
enum Step {
    Insert(usize, Vec<u8>),
    Replace(usize, Vec<u8>),
    Remove(usize, usize),
    SplitAndAppend(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<usize>(), element()).prop_map(|(at, element)| Step::Insert(at, element)),
        2 => (any::<usize>(), element()).prop_map(|(at, element)| Step::Replace(at, element)),
        2 => (any::<usize>(), 0usize..4).prop_map(|(at, count)| Step::Remove(at, count)),
        1 => any::<usize>().prop_map(Step::SplitAndAppend),
    ]
}

fn position(packed: &Packed, index: usize) -> usize {
    packed.locate(index).unwrap_or(packed.end())
}

proptest! {
    #[test]
    fn a_run_does_what_a_vector_does(steps in vec(step(), 1..60)) {
        let mut packed = Packed::new();
        let mut model: Vec<Vec<u8>> = Vec::new();
        for step in steps {
            match step {
                Step::Insert(at, element) => {
                    let at = at % (model.len() + 1);
                    packed.insert(position(&packed, at), Item::of(&element));
                    model.insert(at, element);
                }
                Step::Replace(at, element) if !model.is_empty() => {
                    let at = at % model.len();
                    packed.replace(position(&packed, at), Item::of(&element));
                    model[at] = element;
                }
                Step::Remove(at, count) => {
                    let at = at % (model.len() + 1);
                    packed.remove(position(&packed, at), count);
                    model.drain(at..(at + count).min(model.len()));
                }
                Step::SplitAndAppend(at) => {
                    let at = at % (model.len() + 1);
                    let tail = packed.split_off(position(&packed, at));
                    prop_assert_eq!(packed.len(), at);
                    packed.append(&tail);
                }
                Step::Replace(..) => {}
            }
            prop_assert_eq!(packed.len(), model.len());
            let forwards: Vec<Vec<u8>> = packed.iter().map(|item| item.text().into_vec()).collect();
            prop_assert_eq!(&forwards, &model);
            let mut backwards: Vec<Vec<u8>> = packed.iter().rev().map(|item| item.text().into_vec()).collect();
            backwards.reverse();
            prop_assert_eq!(&backwards, &model);
        }
    }
}

#[test]
fn scores_keep_every_bit() {
    let mut packed = Packed::new();
    for score in [0.1, -1e300, f64::INFINITY, f64::MIN_POSITIVE] {
        packed.push_back(Item::Score(score));
        assert_eq!(packed.get(packed.previous(packed.end())).score(), score);
    }
}
