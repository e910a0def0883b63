//! Sorted sets against a sorted vector.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{dice, tiny_limits};
use crate::types::{Gathered, LexBound, Limits, NotANumber, ScoreBound, ScoreSet, SortedSet};

type Model = Vec<(f64, Vec<u8>)>;

fn order(left: &(f64, Vec<u8>), right: &(f64, Vec<u8>)) -> std::cmp::Ordering {
    left.0.partial_cmp(&right.0).unwrap().then_with(|| left.1.cmp(&right.1))
}

fn set(sorted_set: &mut SortedSet, model: &mut Model, member: &[u8], score: f64, limits: &Limits) {
    let outcome = sorted_set.set(member, score, limits).unwrap();
    let old = model.iter().position(|(_, other)| other == member).map(|at| model.remove(at).0);
    let expected = match old {
        None => ScoreSet::Added,
        Some(old) if old == score => ScoreSet::Same,
        Some(old) => ScoreSet::Changed(old),
    };
    assert_eq!(outcome, expected);
    let element = (score, member.to_vec());
    let at = model.partition_point(|other| order(other, &element).is_lt());
    model.insert(at, element);
}

fn check(sorted_set: &SortedSet, model: &Model) {
    assert_eq!(sorted_set.len(), model.len());
    let shown = |(member, score): (crate::types::Text<'_>, f64)| (score, member.into_vec());
    assert!(sorted_set.iter().map(shown).eq(model.iter().cloned()));
    assert!(sorted_set.iter().rev().map(shown).eq(model.iter().rev().cloned()));
}

fn member() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => (0i64..60).prop_map(|integer| integer.to_string().into_bytes()),
        3 => vec(b'a'..b'd', 0..6),
        1 => vec(any::<u8>(), 0..70),
    ]
}

fn score() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => (-3i32..4).prop_map(f64::from),
        2 => -2.0f64..2.0,
        1 => Just(f64::INFINITY), 1 => Just(f64::NEG_INFINITY), 1 => Just(-0.0),
    ]
}

proptest! {
    #[test]
    fn a_sorted_set_does_what_a_sorted_vector_does(
        steps in vec((0u8..9, member(), score(), score()), 1..200), tiny in any::<bool>(),
    ) {
        let limits = if tiny { tiny_limits() } else { Limits::default() };
        let mut sorted_set = SortedSet::new();
        let mut model = Model::new();
        for (kind, member, low, high) in steps {
            match kind {
                0..=4 => set(&mut sorted_set, &mut model, &member, low, &limits),
                5 => {
                    let at = model.iter().position(|(_, other)| *other == member);
                    prop_assert_eq!(sorted_set.rank(&member), at);
                    prop_assert_eq!(sorted_set.remove(&member), at.map(|at| model.remove(at).0));
                }
                6 => {
                    let ranks = sorted_set.ranks_by_score(ScoreBound::Inclusive(low), ScoreBound::Exclusive(high));
                    let expected: Vec<usize> = (0..model.len()).filter(|at| model[*at].0 >= low && model[*at].0 < high).collect();
                    prop_assert_eq!(ranks.collect::<Vec<_>>(), expected);
                    let ranks = sorted_set.ranks_by_score(ScoreBound::Exclusive(low), ScoreBound::Inclusive(high));
                    let expected: Vec<usize> = (0..model.len()).filter(|at| model[*at].0 > low && model[*at].0 <= high).collect();
                    prop_assert_eq!(ranks.collect::<Vec<_>>(), expected);
                }
                7 => {
                    let shown = sorted_set.pop_min();
                    let expected = (!model.is_empty()).then(|| model.remove(0));
                    prop_assert_eq!(shown.map(|(member, score)| (score, member)), expected);
                }
                _ => {
                    let ranks = sorted_set.ranks_by_score(ScoreBound::Inclusive(0.5), ScoreBound::Inclusive(low));
                    model.drain(ranks.clone());
                    prop_assert_eq!(sorted_set.remove_ranks(ranks.clone()), ranks.len());
                    let shown = sorted_set.pop_max();
                    prop_assert_eq!(shown.map(|(member, score)| (score, member)), model.pop());
                }
            }
            check(&sorted_set, &model);
        }
    }

    #[test]
    fn members_of_one_score_are_ranged_by_their_bytes(
        members in vec(vec(any::<u8>(), 0..4), 0..60), low in vec(any::<u8>(), 0..4), high in vec(any::<u8>(), 0..4), tiny in any::<bool>(),
    ) {
        let limits = if tiny { tiny_limits() } else { Limits::default() };
        let mut sorted_set = SortedSet::new();
        let mut model = Model::new();
        members.iter().for_each(|member| set(&mut sorted_set, &mut model, member, 1.0, &limits));
        let ranks_where = |test: &dyn Fn(&Vec<u8>) -> bool| (0..model.len()).filter(|at| test(&model[*at].1)).collect::<Vec<_>>();
        for (from, to, test) in [
            (LexBound::Inclusive(&low), LexBound::Exclusive(&high), &(|member: &Vec<u8>| *member >= low && *member < high) as &dyn Fn(&Vec<u8>) -> bool),
            (LexBound::Exclusive(&low), LexBound::Inclusive(&high), &|member| *member > low && *member <= high),
            (LexBound::Min, LexBound::Inclusive(&high), &|member| *member <= high),
            (LexBound::Exclusive(&low), LexBound::Max, &|member| *member > low),
            (LexBound::Max, LexBound::Min, &|_| false),
        ] {
            prop_assert_eq!(sorted_set.ranks_by_lex(from, to).collect::<Vec<_>>(), ranks_where(test));
        }
    }
}

#[test]
fn a_big_sorted_set_stays_in_order_through_growth_change_and_shrink() {
    let limits = Limits { hash_seed: 1, ..Limits::default() };
    for (spread, seed) in [(1_000_000, 1), (7, 2), (1, 3)] {
        let mut roll = dice(seed);
        let mut sorted_set = SortedSet::new();
        let mut model = std::collections::BTreeMap::new();
        let mut order = std::collections::BTreeSet::new();
        for turn in 0..60_000u32 {
            let member = format!("member:{}", roll() % 20_000).into_bytes();
            let removing = turn > 30_000 && !roll().is_multiple_of(4);
            if removing {
                let expected: Option<u64> = model.remove(&member);
                expected.iter().for_each(|score| assert!(order.remove(&(*score, member.clone()))));
                assert_eq!(sorted_set.remove(&member), expected.map(|score| score as f64));
            } else {
                let score = roll() % spread;
                sorted_set.set(&member, score as f64, &limits).unwrap();
                if let Some(old) = model.insert(member.clone(), score) {
                    order.remove(&(old, member.clone()));
                }
                order.insert((score, member));
            }
            if turn % 3000 == 0 {
                let shown = sorted_set.iter().map(|(member, score)| (score as u64, member.into_vec()));
                assert!(shown.eq(order.iter().cloned()));
                let shown = sorted_set.iter().rev().map(|(member, score)| (score as u64, member.into_vec()));
                assert!(shown.eq(order.iter().rev().cloned()));
                for (rank, (score, member)) in order.iter().enumerate().step_by(131) {
                    assert_eq!(sorted_set.rank(member), Some(rank));
                    assert_eq!(
                        sorted_set.at(rank).map(|(member, score)| (member.into_vec(), score as u64)),
                        Some((member.clone(), *score))
                    );
                }
            }
        }
        while let Some((member, score)) = sorted_set.pop_max() {
            assert_eq!(order.pop_last(), Some((score as u64, member)));
        }
        assert!(order.is_empty() && sorted_set.is_empty());
    }
}

#[test]
fn what_is_no_number_is_no_score() {
    let mut sorted_set = SortedSet::new();
    assert_eq!(sorted_set.set(b"m", f64::NAN, &Limits::default()), Err(NotANumber));
    assert!(sorted_set.is_empty());
}

#[test]
fn a_scan_shows_every_member_with_its_score() {
    let limits = Limits::default();
    let mut sorted_set = SortedSet::new();
    (0..5000).for_each(|number| _ = sorted_set.set(format!("m{number}").as_bytes(), f64::from(number), &limits));
    let (mut cursor, mut shown) = (0, 0.0);
    loop {
        cursor = sorted_set.scan(cursor, 10, |_, score| shown += score);
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(shown, 4999.0 * 2500.0);
}

#[test]
fn many_members_are_taken_out_at_once_as_if_one_by_one() {
    let limits = Limits { hash_seed: 1, ..Limits::default() };
    for (len, ranks) in
        [(5000, 0..5000), (5000, 1..5000), (5000, 0..4999), (5000, 1234..3456), (5000, 4000..4040), (300, 20..23)]
    {
        let mut roll = dice(len + ranks.start as u64);
        let mut sorted_set = SortedSet::prepared(usize::MAX, 0, &limits);
        let mut model = Model::new();
        for number in 0..len {
            let member = format!("a member, some of which are longer than others: {number}").into_bytes();
            let member = if number % 3 == 0 { member } else { member[40..].to_vec() };
            model.push(((roll() % 100) as f64, member));
        }
        model.iter().for_each(|(score, member)| _ = sorted_set.set(member, *score, &limits));
        model.sort_by(order);
        model.drain(ranks.clone());
        assert_eq!(sorted_set.remove_ranks(ranks.clone()), ranks.len());
        check(&sorted_set, &model);
        assert!(sorted_set.is_counted_right());
        // What is left can be changed as before.
        for number in 0..len {
            let member = format!("a member, some of which are longer than others: {}", roll() % len).into_bytes();
            if number % 2 == 0 {
                let at = model.iter().position(|(_, other)| *other == member);
                assert_eq!(sorted_set.remove(&member), at.map(|at| model.remove(at).0));
            } else {
                set(&mut sorted_set, &mut model, &member, (roll() % 100) as f64, &limits);
            }
        }
        check(&sorted_set, &model);
        assert!(model.iter().step_by(7).all(|(score, member)| sorted_set.score(member) == Some(*score)));
        assert_eq!(sorted_set.iter_unordered().count(), model.len());
    }
}

#[test]
fn what_is_gathered_in_any_order_is_in_order_when_it_is_finished() {
    let limits = Limits { hash_seed: 1, ..Limits::default() };
    for (len, spread, begin) in [
        (0, 1, ""),
        (1, 1, "alone"),
        (7, 3, ""),
        (129, 1, "begins alike:"),
        (20_000, 1000, "m"),
        (20_000, 1, "the same first bytes:"),
    ] {
        let mut roll = dice(len);
        let mut gathered = Gathered::new(&limits);
        let mut model = std::collections::BTreeMap::new();
        for _ in 0..2 * len {
            let member = format!("{begin}{}", roll() % len).into_bytes();
            let score = (roll() % spread) as f64;
            gathered.join(&member, |so_far| so_far.map_or(score, |so_far| so_far + score));
            *model.entry(member).or_insert(0.0) += score;
        }
        let mut model: Model = model.into_iter().map(|(member, score)| (score, member)).collect();
        model.sort_by(order);
        let mut sorted_set = gathered.finish();
        check(&sorted_set, &model);
        assert!(sorted_set.is_counted_right());
        for (rank, (score, member)) in model.iter().enumerate().step_by(97) {
            assert_eq!((sorted_set.rank(member), sorted_set.score(member)), (Some(rank), Some(*score)));
        }
        for _ in 0..len.min(3000) {
            let member = format!("{begin}{}", roll() % len).into_bytes();
            set(&mut sorted_set, &mut model, &member, (roll() % spread) as f64, &limits);
        }
        check(&sorted_set, &model);
    }
}
