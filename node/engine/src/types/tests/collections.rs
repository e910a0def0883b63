//! Hashes and sets against the standard library's maps, and what a scan promises.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::{dice, tiny_limits};
use crate::types::{Hash, Limits, Set, SortedSet, Steps, set};

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (-20i64..20).prop_map(|integer| integer.to_string().into_bytes()),
        2 => vec(b'a'..b'e', 0..3),
        1 => vec(any::<u8>(), 0..70),
        1 => any::<i64>().prop_map(|integer| integer.to_string().into_bytes()),
    ]
}

fn limits(tiny: bool) -> Limits {
    if tiny { tiny_limits() } else { Limits::default() }
}

proptest! {
    #[test]
    fn a_hash_does_what_a_map_does(
        steps in vec((0u8..8, name(), name(), any::<i64>()), 1..150), tiny in any::<bool>(),
    ) {
        let limits = limits(tiny);
        let mut hash = Hash::new();
        let mut model: BTreeMap<Vec<u8>, (Vec<u8>, Option<i64>)> = BTreeMap::new();
        for (kind, field, value, time) in steps {
            match kind {
                0..=3 => {
                    let added = hash.set(&field, &value, &limits);
                    prop_assert_eq!(added, model.insert(field, (value, None)).is_none());
                }
                4 => prop_assert_eq!(hash.remove(&field), model.remove(&field).is_some()),
                5 => {
                    let expires_at = (time % 3 != 0).then_some(time);
                    let entry = model.get_mut(&field);
                    prop_assert_eq!(hash.set_expiry(&field, expires_at, &limits), entry.is_some());
                    entry.into_iter().for_each(|entry| entry.1 = expires_at);
                }
                6 => {
                    hash.set_value(&field, &value, &limits);
                    model.entry(field).or_default().0 = value;
                }
                _ => {
                    let expired: BTreeSet<Vec<u8>> = model.iter()
                        .filter(|(_, (_, expiry))| expiry.is_some_and(|expiry| expiry <= time))
                        .map(|(field, _)| field.clone()).collect();
                    let purged: BTreeSet<Vec<u8>> = hash.purge(time, usize::MAX).into_iter().map(Vec::from).collect();
                    prop_assert_eq!(&purged, &expired);
                    model.retain(|field, _| !expired.contains(field));
                }
            }
            prop_assert_eq!(hash.len(), model.len());
            prop_assert_eq!(hash.next_expiry(), model.values().filter_map(|(_, expiry)| *expiry).min());
        }
        let shown: BTreeMap<Vec<u8>, (Vec<u8>, Option<i64>)> =
            hash.iter().map(|shown| (shown.field.into_vec(), (shown.value.into_vec(), shown.expires_at))).collect();
        prop_assert_eq!(&shown, &model);
        for (field, (value, expiry)) in &model {
            prop_assert_eq!(hash.get(field).map(|text| text.into_vec()), Some(value.clone()));
            prop_assert_eq!(hash.expiry(field), *expiry);
        }
    }

    #[test]
    fn a_set_does_what_a_set_does(steps in vec((0u8..4, name()), 1..200), tiny in any::<bool>(), seed in any::<u64>()) {
        let limits = limits(tiny);
        let mut set = Set::new();
        let mut model: BTreeSet<Vec<u8>> = BTreeSet::new();
        let mut roll = dice(seed);
        for (kind, member) in steps {
            match kind {
                0 | 1 => prop_assert_eq!(set.add(&member, &limits), model.insert(member)),
                2 => prop_assert_eq!(set.remove(&member), model.remove(&member)),
                _ => {
                    let popped = set.pop_random(&mut roll);
                    prop_assert_eq!(popped.is_some(), !model.is_empty());
                    popped.iter().for_each(|member| assert!(model.remove(member)));
                }
            }
            prop_assert_eq!(set.len(), model.len());
        }
        prop_assert!(model.iter().all(|member| set.contains(member)));
        let shown: BTreeSet<Vec<u8>> = set.iter().map(|text| text.into_vec()).collect();
        prop_assert_eq!(&shown, &model);
        let some = set.random_distinct(3, &mut roll);
        prop_assert_eq!(some.len(), model.len().min(3));
        prop_assert_eq!(some.iter().collect::<BTreeSet<_>>().len(), some.len());
    }

    #[test]
    fn set_algebra_agrees_with_the_standard_library(members in vec(vec(name(), 0..40), 1..4), tiny in any::<bool>()) {
        let limits = limits(tiny);
        let models: Vec<BTreeSet<Vec<u8>>> = members.iter().map(|members| members.iter().cloned().collect()).collect();
        let sets: Vec<Set> = members.iter().map(|members| {
            let mut set = Set::new();
            members.iter().for_each(|member| _ = set.add(member, &limits));
            set
        }).collect();
        let (sets, steps): (Vec<&Set>, _) = (sets.iter().collect(), Steps::new(None));
        let shown = |set: Set| set.iter().map(|text| text.into_vec()).collect::<BTreeSet<_>>();

        let both = models[1..].iter().fold(models[0].clone(), |left, right| &left & right);
        prop_assert_eq!(set::intersection_len(&sets, 0, &steps).expect("it may"), both.len());
        prop_assert_eq!(set::intersection_len(&sets, 2, &steps).expect("it may"), both.len().min(2));
        prop_assert_eq!(shown(set::intersection(&sets, &limits, &steps).expect("it may")), both);
        prop_assert_eq!(shown(set::union(&sets, &limits, &steps).expect("it may")), models.iter().flatten().cloned().collect());
        let only = models[1..].iter().fold(models[0].clone(), |left, right| &left - right);
        prop_assert_eq!(shown(set::difference(&sets, &limits, &steps).expect("it may")), only);
    }
}

#[test]
fn big_tables_grow_and_shrink_without_losing_anything() {
    let limits = Limits { hash_seed: 99, ..Limits::default() };
    let (mut set, mut hash) = (Set::new(), Hash::new());
    let member = |number: u32| format!("member:{number}").into_bytes();
    for number in 0..60_000 {
        assert!(set.add(&member(number), &limits));
        assert!(hash.set(&member(number), b"value", &limits));
    }
    let full_bytes = set.memory_bytes();
    for number in 0..59_000 {
        assert!(set.remove(&member(number)));
        assert!(hash.remove(&member(number)));
        if number % 5000 == 0 {
            assert!((number + 1..60_000).step_by(613).all(|other| set.contains(&member(other))));
        }
    }
    assert_eq!((set.len(), hash.len()), (1000, 1000));
    assert!((59_000..60_000).all(|number| set.contains(&member(number)) && hash.contains(&member(number))));
    assert!(set.memory_bytes() < full_bytes / 20);
}

/// Scans with changes between the calls, and returns what was shown.
fn scan_while(mut scan: impl FnMut(u64) -> (u64, Vec<Vec<u8>>)) -> Vec<Vec<u8>> {
    let mut shown = Vec::new();
    let mut cursor = 0;
    for _ in 0..1_000_000 {
        let (next, members) = scan(cursor);
        shown.extend(members);
        if next == 0 {
            return shown;
        }
        assert!(next > cursor, "a cursor goes forwards");
        cursor = next;
    }
    panic!("the scan does not end");
}

fn collect(set: &Set, cursor: u64, count: usize) -> (u64, Vec<Vec<u8>>) {
    let mut members = Vec::new();
    let next = set.scan(cursor, count, |member| members.push(member.into_vec()));
    (next, members)
}

#[test]
fn a_scan_shows_what_stays_while_the_set_grows_and_shrinks() {
    let limits = Limits { hash_seed: 3, ..Limits::default() };
    let stays = |number: usize| format!("stays:{number}").into_bytes();
    let goes = |number: usize| format!("goes:{number}").into_bytes();
    for grows in [true, false] {
        let mut set = Set::new();
        (0..2000).for_each(|number| _ = set.add(&stays(number), &limits));
        if !grows {
            (0..20_000).for_each(|number| _ = set.add(&goes(number), &limits));
        }
        let mut changed = 0;
        let shown = scan_while(|cursor| {
            let page = collect(&set, cursor, 10);
            for _ in 0..100 {
                let member = goes(changed);
                _ = if grows && changed < 20_000 { set.add(&member, &limits) } else { set.remove(&member) };
                changed += 1;
            }
            page
        });
        let distinct: BTreeSet<Vec<u8>> = shown.iter().cloned().collect();
        assert!((0..2000).all(|number| distinct.contains(&stays(number))), "something that stayed was not shown");
        assert_eq!(distinct.len(), shown.len(), "nothing is shown twice");
    }
}

#[test]
fn a_scan_shows_about_as_many_as_asked_for() {
    let limits = Limits::default();
    let mut set = Set::new();
    (0..10_000).for_each(|number| _ = set.add(format!("m{number}").as_bytes(), &limits));
    let (next, page) = collect(&set, 0, 10);
    assert_eq!(page.len(), 10);
    assert_ne!(next, 0);
    assert_eq!(scan_while(|cursor| collect(&set, cursor, 1000)).len(), 10_000);
    assert_eq!(collect(&set, 0, usize::MAX).1.len(), 10_000);
    assert_eq!(collect(&set, u64::MAX, 10), (0, vec![]));
}

#[test]
fn every_member_is_drawn_as_often_as_every_other() {
    let limits = Limits { hash_seed: 5, ..Limits::default() };
    let mut roll = dice(11);
    let (mut set, mut sorted_set) = (Set::new(), SortedSet::new());
    for number in 0..1000 {
        let member = format!("m{number}");
        set.add(member.as_bytes(), &limits);
        sorted_set.set(member.as_bytes(), f64::from(number), &limits).unwrap();
    }
    let mut drawn: BTreeMap<Vec<u8>, (u32, u32)> = BTreeMap::new();
    for _ in 0..200_000 {
        drawn.entry(set.random(&mut roll).unwrap().into_vec()).or_default().0 += 1;
        drawn.entry(sorted_set.random(&mut roll).unwrap().0.into_vec()).or_default().1 += 1;
    }
    // Chi-square with 999 degrees of freedom: above 1150 once in a thousand runs; the dice are the same each time.
    let chi = |count: fn(&(u32, u32)) -> u32| {
        drawn.values().map(|both| (f64::from(count(both)) - 200.0).powi(2) / 200.0).sum::<f64>()
    };
    assert_eq!(drawn.len(), 1000);
    assert!(chi(|both| both.0) < 1150.0 && chi(|both| both.1) < 1150.0);
}
