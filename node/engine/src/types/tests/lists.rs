//! Lists against a deque of byte strings.

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{dice, tiny_limits};
use crate::types::{End, Limits, List, Side};

#[derive(Debug, Clone)]
enum Step {
    Push(End, Vec<Vec<u8>>),
    Pop(End),
    Set(usize, Vec<u8>),
    Insert(Side, Vec<u8>, Vec<u8>),
    Remove(Vec<u8>, End, usize),
    Trim(usize, usize),
}

fn element() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => (0i64..6).prop_map(|integer| integer.to_string().into_bytes()),
        2 => vec(b'a'..b'c', 1..3),
        1 => vec(any::<u8>(), 0..3000),
        1 => vec(Just(b'z'), 9000..9001),
    ]
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![Just(End::Front), Just(End::Back)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (end(), vec(element(), 1..6)).prop_map(|(end, elements)| Step::Push(end, elements)),
        2 => end().prop_map(Step::Pop),
        2 => (any::<usize>(), element()).prop_map(|(at, element)| Step::Set(at, element)),
        2 => (prop_oneof![Just(Side::Before), Just(Side::After)], element(), element())
            .prop_map(|(side, pivot, element)| Step::Insert(side, pivot, element)),
        2 => (element(), end(), 1usize..5).prop_map(|(element, from, max)| Step::Remove(element, from, max)),
        1 => (0usize..10, 0usize..60).prop_map(|(start, end)| Step::Trim(start, end)),
    ]
}

fn apply(list: &mut List, model: &mut VecDeque<Vec<u8>>, step: Step, limits: &Limits) {
    match step {
        Step::Push(end, elements) => {
            let borrowed: Vec<&[u8]> = elements.iter().map(Vec::as_slice).collect();
            list.push(end, &borrowed, limits);
            for element in elements {
                if end == End::Front { model.push_front(element) } else { model.push_back(element) }
            }
        }
        Step::Pop(end) => {
            let expected = if end == End::Front { model.pop_front() } else { model.pop_back() };
            assert_eq!(list.pop(end, limits), expected);
        }
        Step::Set(at, element) => {
            let at = at % (model.len() + 1);
            assert_eq!(list.set(at, &element, limits), at < model.len());
            if at < model.len() {
                model[at] = element;
            }
        }
        Step::Insert(side, pivot, element) => {
            let found = model.iter().position(|other| *other == pivot);
            assert_eq!(list.insert(side, &pivot, &element, limits), found.is_some());
            if let Some(at) = found {
                model.insert(if side == Side::Before { at } else { at + 1 }, element);
            }
        }
        Step::Remove(element, from, max) => {
            let mut indices: Vec<usize> = (0..model.len()).filter(|at| model[*at] == element).collect();
            if from == End::Back {
                indices.reverse();
            }
            let found: Vec<usize> = list.positions(&element, from, usize::MAX).collect();
            assert_eq!(found, indices);
            indices.truncate(max);
            assert_eq!(list.remove(&element, from, max, limits), indices.len());
            indices.sort_unstable();
            indices.iter().rev().for_each(|at| _ = model.remove(*at));
        }
        Step::Trim(start, end) => {
            list.trim(start..end, limits);
            model.truncate(end);
            model.drain(..start.min(model.len()));
        }
    }
}

fn check(list: &List, model: &VecDeque<Vec<u8>>, roll: &mut impl FnMut() -> u64) {
    assert_eq!(list.len(), model.len());
    assert!(list.iter().map(|text| text.into_vec()).eq(model.iter().cloned()));
    assert!(list.iter().rev().map(|text| text.into_vec()).eq(model.iter().rev().cloned()));
    let at = roll() as usize % (model.len() + 1);
    assert_eq!(list.get(at).map(|text| text.into_vec()), model.get(at).cloned());

    // A range walked from both ends at once, in any order of ends.
    let (start, end) = (at / 2, at);
    let mut range = list.range(start..end);
    let mut expected: VecDeque<&Vec<u8>> = model.range(start..end).collect();
    while !expected.is_empty() {
        assert_eq!(range.len(), expected.len());
        if roll().is_multiple_of(2) {
            assert_eq!(range.next().map(|text| text.into_vec()).as_ref(), expected.pop_front());
        } else {
            assert_eq!(range.next_back().map(|text| text.into_vec()).as_ref(), expected.pop_back());
        }
    }
    assert!(range.next().is_none() && range.next_back().is_none());
}

proptest! {
    #[test]
    fn a_list_does_what_a_deque_does(steps in vec(step(), 1..60), tiny in any::<bool>(), seed in any::<u64>()) {
        let limits = if tiny { tiny_limits() } else { Limits::default() };
        let mut list = List::new();
        let mut model = VecDeque::new();
        let mut roll = dice(seed);
        for step in steps {
            apply(&mut list, &mut model, step, &limits);
            check(&list, &model, &mut roll);
        }
    }
}

#[test]
fn a_long_list_is_found_by_index_from_both_ends() {
    let limits = Limits::default();
    let mut list = List::new();
    for number in 0..100_000i64 {
        list.push(End::Back, &[number.to_string().as_bytes()], &limits);
    }
    for index in (0..100_000).step_by(997) {
        assert_eq!(list.get(index).unwrap().into_vec(), index.to_string().into_bytes());
    }
    assert!(list.memory_bytes() < 100_000 * 7, "{} bytes", list.memory_bytes());
    list.trim(99_990..100_000, &limits);
    assert_eq!(list.encoding(), "listpack");
}
