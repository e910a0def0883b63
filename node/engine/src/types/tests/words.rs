//! What a value takes from the allocator, and that runs keep their bytes, their count and their owner through it all.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::dict::{Dict, NewValue, allocation_bytes};
use crate::types::word::Run;
use crate::types::{End, Hash, Kind, Limits, List, Set, SortedSet, Stream, StreamId, Value};

const KEY: &[u8] = b"0123456789abcdef";

/// Entry and value of one key.
fn bytes_of(value: Value) -> usize {
    let mut dict = Dict::new(1);
    let held = value.memory_bytes();
    dict.insert(dict.hash(KEY), KEY, NewValue::Object(value), None);
    let mut entries = 0;
    dict.for_each(&mut |entry| entries += entry.memory_bytes());
    entries + held
}

fn hash(pairs: &[(&[u8], &[u8])]) -> Value {
    let (mut hash, limits) = (Hash::new(), Limits::default());
    pairs.iter().for_each(|(field, value)| _ = hash.set(field, value, &limits));
    hash.into()
}

#[test]
fn a_small_collection_costs_its_entry_and_one_tight_piece() {
    let limits = Limits::default();
    let names = ["f0", "f1", "f2", "f3", "f4"];
    let pairs: Vec<(&[u8], &[u8])> = names.iter().map(|name| (name.as_bytes(), &b"abcdefgh"[..])).collect();
    // Header, word and key are 32 bytes; then what a listpack of the same elements takes, and one byte.
    assert_eq!(bytes_of(hash(&pairs)), 32 + 80);
    let numbers: Vec<(&[u8], &[u8])> = names.iter().map(|name| (name.as_bytes(), &b"12345678"[..])).collect();
    assert_eq!(bytes_of(hash(&numbers)), 32 + 64);

    let members = ["element:0", "element:1", "element:2", "element:3", "element:4"].map(str::as_bytes);
    let mut list = List::new();
    list.push(End::Back, &members, &limits);
    assert_eq!(bytes_of(list.into()), 32 + 64);
    let (mut set, mut sorted_set, mut integers) = (Set::new(), SortedSet::new(), Set::new());
    for (score, member) in (0..5u8).zip(members) {
        set.add(member, &limits);
        assert!(sorted_set.set(member, f64::from(score), &limits).is_ok());
        integers.add(&[b'1', b'0' + score], &limits);
    }
    assert_eq!(bytes_of(set.into()), 32 + 64);
    assert_eq!(bytes_of(sorted_set.into()), 32 + 80);
    assert_eq!(bytes_of(integers.into()), 32 + 32);

    let mut stream = Stream::new();
    stream.append(StreamId { ms: 1, seq: 1 }, &[b"field", b"value123"], &limits);
    assert!(bytes_of(stream.into()) <= 32 + 400);
}

#[test]
fn a_run_that_grew_is_no_larger_than_one_made_at_once() {
    for len in [1usize, 7, 8, 9, 100, 248, 249, 1000, 5000, if cfg!(miri) { 5001 } else { 70_000 }] {
        let mut grown = Run::default();
        for at in 0..len {
            grown.splice(at, 0, [b"x", b"", b""]);
        }
        assert_eq!(grown.heap_bytes(), allocation_bytes(len + 8), "{len}");
        assert_eq!(Run::from_bytes(&vec![b'x'; len], 0).heap_bytes(), grown.heap_bytes());
        // Half of it gone, it keeps at most some classes; shrunk, none.
        grown.splice(len / 2, len - len / 2, [b"", b"", b""]);
        assert!(grown.heap_bytes() <= allocation_bytes(len / 2 + 8) * 2 + 64);
        grown.shrink();
        assert_eq!(grown.heap_bytes(), if len < 2 { 0 } else { allocation_bytes(len / 2 + 8) });
    }
}

#[test]
fn a_value_is_what_it_was_made_of_and_copies_are_their_own() {
    let limits = Limits::default();
    for count in [0, 1, 5, if cfg!(miri) { 140 } else { 600 }] {
        let (mut list, mut set, mut sorted_set, mut hash) = (List::new(), Set::new(), SortedSet::new(), Hash::new());
        for number in 0..count {
            let text = format!("element-{number}");
            list.push(End::Back, &[text.as_bytes()], &limits);
            set.add(text.as_bytes(), &limits);
            assert!(sorted_set.set(text.as_bytes(), f64::from(number), &limits).is_ok());
            hash.set(text.as_bytes(), b"v", &limits);
        }
        let values: [Value; 5] = [list.into(), set.into(), sorted_set.into(), hash.into(), Stream::new().into()];
        let names = ["list", "set", "zset", "hash", "stream"];
        for (value, name) in values.iter().zip(names) {
            let copy = value.clone();
            assert_eq!((value.type_name(), copy.type_name()), (name, name));
            assert_eq!((copy.len(), copy.encoding()), (value.len(), value.encoding()));
            let mut moved = copy.clone();
            let small = moved.memory_bytes() > 0
                && !["quicklist", "hashtable", "skiplist", "stream"].contains(&moved.encoding());
            assert_eq!(moved.renew().is_some(), small);
            assert_eq!((moved.len(), moved.encoding()), (value.len(), value.encoding()));
            assert!(matches!(copy.kind(), Kind::Stream(_)) || copy.len() == count as usize);
        }
    }
}

#[test]
fn an_integer_set_takes_the_width_of_its_widest() {
    let limits = Limits::default();
    let mut set = Set::new();
    let wide = [5i64, -7, 40_000, -3_000_000_000, i64::MAX, i64::MIN, 0];
    for (at, integer) in wide.iter().enumerate() {
        assert!(set.add(integer.to_string().as_bytes(), &limits) && set.len() == at + 1);
        assert!(!set.add(integer.to_string().as_bytes(), &limits));
    }
    assert_eq!(set.encoding(), "intset");
    let mut sorted = wide;
    sorted.sort_unstable();
    assert!(set.iter().map(|text| text.to_vec()).eq(sorted.iter().map(|integer| integer.to_string().into_bytes())));
    assert!(wide.iter().all(|integer| set.remove(integer.to_string().as_bytes())) && set.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 256 }))]
    #[test]
    fn a_run_does_what_a_vector_does(steps in vec((any::<usize>(), any::<usize>(), vec(any::<u8>(), 0..if cfg!(miri) { 200 } else { 900 }), any::<bool>()), 1..60)) {
        let (mut run, mut model) = (Run::default(), Vec::new());
        for (number, (at, old, new, shrink)) in steps.into_iter().enumerate() {
            let at = at % (model.len() + 1);
            let old = old % (model.len() - at + 1);
            run.splice(at, old, [&new[..new.len() / 2], &new[new.len() / 2..], b""]);
            model.splice(at..at + old, new);
            let count = if model.is_empty() { 0 } else { number as u32 };
            run.set_count(count);
            if shrink {
                run.shrink();
                prop_assert_eq!(run.heap_bytes(), if model.is_empty() { 0 } else { allocation_bytes(model.len() + 8) });
            }
            prop_assert_eq!(run.bytes(), &model[..]);
            prop_assert_eq!(run.count(), count);
            prop_assert!(run.heap_bytes() <= allocation_bytes(model.len() + 8) * 2 + 64);
            let copy = run.clone();
            prop_assert_eq!(copy.bytes(), &model[..]);
        }
    }
}
