//! Streams against a naive model, and by weight.

use super::{dice, tiny_limits};
use crate::types::{Keep, Limits, Stream, StreamId};
use proptest::prelude::*;
use std::collections::BTreeMap;

type Entries = Vec<(StreamId, Vec<(Vec<u8>, Vec<u8>)>)>;

fn read<'a>(entries: impl Iterator<Item = crate::types::StreamEntry<'a>>) -> Entries {
    let pairs = |entry: &crate::types::StreamEntry<'_>| {
        entry.pairs().map(|(field, value)| (field.to_vec(), value.to_vec())).collect()
    };
    entries.map(|entry| (entry.id, pairs(&entry))).collect()
}

/// Names that entries of one node share, or do not.
const NAMES: [&[&[u8]]; 4] = [&[b"a"], &[b"a", b"b"], &[b"b", b"a"], &[b"17", b"", b"c"]];

/// What a stream should weigh, counted from its parts.
fn check_weight(stream: &Stream) {
    let copy = stream.clone();
    assert!(copy.memory_bytes() <= stream.memory_bytes());
}

#[derive(Clone, Debug)]
enum Step {
    Append { ms: u64, seq: u64, names: usize, value: Vec<u8> },
    Delete(usize),
    Trim(u64, bool),
    TrimBefore(usize, bool),
    Range(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let value = prop_oneof![
        any::<i64>().prop_map(|integer| integer.to_string().into_bytes()),
        (0u8..60).prop_map(|integer| integer.to_string().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..30),
        Just(vec![b'x'; 200]),
        Just(vec![b'y'; 70_000]),
    ];
    let ms = prop_oneof![Just(0), 0u64..5, Just(1 << 40)];
    prop_oneof![
        8 => (ms, 0u64..200, 0usize..4, value).prop_map(|(ms, seq, names, value)| Step::Append { ms, seq, names, value }),
        2 => any::<usize>().prop_map(Step::Delete),
        1 => (0u64..30, any::<bool>()).prop_map(|(len, whole)| Step::Trim(len, whole)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(index, whole)| Step::TrimBefore(index, whole)),
        2 => (any::<usize>(), any::<usize>()).prop_map(|(from, to)| Step::Range(from, to)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_stream_holds_what_an_ordered_map_holds(steps in prop::collection::vec(step(), 1..200), tiny in any::<bool>()) {
        let limits = if tiny { tiny_limits() } else { Limits::default() };
        let (mut stream, mut model) = (Stream::new(), BTreeMap::new());
        let nth = |model: &BTreeMap<StreamId, _>, index: usize| {
            let len = model.len().max(1);
            model.keys().nth(index % len).copied().unwrap_or(StreamId::new(3, 3))
        };
        for step in steps {
            match step {
                Step::Append { ms, seq, names, value } => {
                    let last = stream.last_id();
                    let id = StreamId::new(last.ms + ms, if ms == 0 { last.seq + seq + 1 } else { seq });
                    let names = NAMES[names];
                    let pairs: Vec<&[u8]> = names.iter().flat_map(|name| [*name, &value[..]]).collect();
                    stream.append(id, &pairs, &limits);
                    model.insert(id, names.iter().map(|name| (name.to_vec(), value.clone())).collect::<Vec<_>>());
                }
                Step::Delete(index) => {
                    let id = nth(&model, index);
                    prop_assert_eq!(stream.delete(id), model.remove(&id).is_some());
                    prop_assert!(!stream.delete(id));
                }
                Step::Trim(len, whole) => {
                    let before = model.len();
                    let deleted = stream.trim(Keep::Last(len), whole, 0) as usize;
                    let exact = before.saturating_sub(len as usize);
                    prop_assert!(deleted == exact || (whole && deleted < exact));
                    (0..deleted).for_each(|_| _ = model.pop_first());
                }
                Step::TrimBefore(index, whole) => {
                    let id = nth(&model, index);
                    let exact = model.range(..id).count();
                    let deleted = stream.trim(Keep::From(id), whole, 0) as usize;
                    prop_assert!(deleted == exact || (whole && deleted < exact));
                    (0..deleted).for_each(|_| _ = model.pop_first());
                }
                Step::Range(from, to) => {
                    let (from, to) = (nth(&model, from), nth(&model, to));
                    let mut expected: Entries = Vec::new();
                    if from <= to {
                        expected = model.range(from..=to).map(|(id, pairs)| (*id, pairs.clone())).collect();
                    }
                    prop_assert_eq!(read(stream.range(from, to)), expected.clone());
                    expected.reverse();
                    prop_assert_eq!(read(stream.range_back(from, to)), expected);
                }
            }
            prop_assert_eq!(stream.len(), model.len());
            prop_assert_eq!(stream.first_id(), model.keys().next().copied().unwrap_or_default());
            check_weight(&stream);
        }
        let all: Entries = model.into_iter().collect();
        prop_assert_eq!(read(stream.range(StreamId::MIN, StreamId::MAX)), all);
        stream.trim(Keep::Last(0), false, 0);
        let mut empty = Stream::new();
        empty.set_history(stream.last_id(), 0, StreamId::MIN);
        prop_assert_eq!(stream.nodes_len(), 0);
    }
}

#[test]
fn every_id_can_be_kept() {
    let mut stream = Stream::new();
    let ids = [
        StreamId::new(0, 1),
        StreamId::new(0, u64::MAX),
        StreamId::new(1, 0),
        StreamId::new(u64::MAX - 1, u64::MAX),
        StreamId::new(u64::MAX, 0),
        StreamId::MAX,
    ];
    ids.iter().for_each(|id| stream.append(*id, &[b"f", b"v"], &Limits::default()));
    let found: Vec<StreamId> = stream.range(StreamId::MIN, StreamId::MAX).map(|entry| entry.id).collect();
    assert_eq!(found, ids);
    assert_eq!(stream.nodes_len(), 1);
    assert!(ids.iter().all(|id| stream.contains(*id)));
    assert!(!stream.contains(StreamId::new(0, 2)));
}

#[test]
fn an_approximate_trim_takes_whole_nodes_and_stops_at_its_limit() {
    let limits = Limits { stream_node_entries_max: 10, ..Limits::default() };
    let mut stream = Stream::new();
    for ms in 1..=100 {
        stream.append(StreamId::new(ms, 0), &[b"f", b"v"], &limits);
    }
    assert_eq!(stream.trim(Keep::Last(85), true, 0), 10);
    assert_eq!(stream.trim(Keep::Last(5), true, 25), 20);
    assert_eq!(stream.trim(Keep::From(StreamId::new(55, 0)), true, 0), 20);
    assert_eq!((stream.len(), stream.first_id()), (50, StreamId::new(51, 0)));
}

#[test]
fn an_entry_of_a_stream_weighs_no_more_than_its_bytes_and_six() {
    let mut stream = Stream::new();
    let mut random = dice(1);
    let (mut ms, mut bytes, entries) = (1_700_000_000_000, 0, 100_000);
    for _ in 0..entries {
        ms += random() % 3;
        let last = stream.last_id();
        let id = if ms == last.ms { StreamId::new(ms, last.seq + 1) } else { StreamId::new(ms, 0) };
        let value = format!("value:{:08x}", random() as u32);
        bytes += value.len();
        stream.append(id, &[b"field", value.as_bytes()], &Limits::default());
    }
    let overhead = (stream.memory_bytes() - bytes) as f64 / f64::from(entries);
    assert!(overhead < 8.0, "{overhead}");
}

#[test]
fn an_empty_stream_still_remembers_and_groups_are_weighed() {
    let mut stream = Stream::new();
    let before = stream.memory_bytes();
    stream.append(StreamId::new(5, 1), &[b"f", b"v"], &Limits::default());
    assert!(stream.delete(StreamId::new(5, 1)));
    assert_eq!((stream.last_id(), stream.max_deleted_id()), (StreamId::new(5, 1), StreamId::new(5, 1)));
    assert_eq!((stream.entries_added(), stream.len()), (1, 0));
    let empty = stream.memory_bytes();
    assert!(empty >= before);
    stream.add_group(b"group", StreamId::MIN, None);
    let with_group = stream.memory_bytes();
    stream.with_group(b"group", |group| {
        let number = group.add_consumer(b"somebody", 1).expect("new");
        (1..1000).for_each(|ms| group.give(StreamId::new(ms, 0), number, 1, 1));
    });
    assert!(stream.memory_bytes() > with_group + 1000 * 56);
    stream.with_group(b"group", |group| {
        assert_eq!(group.remove_consumer(b"somebody"), Some(999));
        assert_eq!(group.pending_len(), 0);
    });
    assert!(stream.memory_bytes() < with_group + 1000);
    assert!(stream.remove_group(b"group"));
    assert!(stream.memory_bytes() < with_group);
}
