//! Where one form turns into the next: the numbers are what Valkey 9.1 does with the same limits, asked by OBJECT ENCODING.

use crate::types::{End, Hash, Limits, List, Set, SortedSet, Value};

fn fill_until_quicklist(limits: &Limits, element: impl Fn(usize) -> Vec<u8>) -> (usize, usize) {
    let mut list = List::new();
    while list.encoding() == "listpack" {
        list.push(End::Back, &[&element(list.len())], limits);
    }
    let up = list.len();
    while list.encoding() == "quicklist" {
        list.pop(End::Back, limits);
    }
    (up, list.len())
}

#[test]
fn a_list_turns_at_eight_kibibytes_and_back_at_half() {
    let limits = Limits::default();
    for (size, up, back) in [(8, 819, 408), (9, 745, 371), (10, 683, 340), (100, 80, 39), (1000, 9, 4)] {
        assert_eq!(fill_until_quicklist(&limits, |_| vec![b'x'; size]), (up, back), "elements of {size} bytes");
    }
    for (start, up, back) in [
        (0, 2771, 1405),
        (1000, 2729, 1363),
        (100_000, 1637, 817),
        (1_000_000_000, 1364, 681),
        (1_000_000_000_000, 819, 408),
    ] {
        assert_eq!(
            fill_until_quicklist(&limits, |index| (start + index).to_string().into_bytes()),
            (up, back),
            "integers from {start}"
        );
    }
}

#[test]
fn a_list_limited_by_count_turns_there() {
    let limits = Limits { list_listpack_size: 4, ..Limits::default() };
    assert_eq!(fill_until_quicklist(&limits, |_| b"a".to_vec()), (5, 2));
}

#[test]
fn one_big_element_makes_a_quicklist() {
    let limits = Limits::default();
    for (size, encoding) in [(8000, "listpack"), (8185, "listpack"), (8186, "quicklist"), (9000, "quicklist")] {
        let mut list = List::new();
        list.push(End::Front, &[&vec![b'x'; size]], &limits);
        assert_eq!(list.encoding(), encoding, "{size} bytes");
    }
    for (second, before, after) in
        [(4090, "listpack", "listpack"), (4100, "listpack", "quicklist"), (4106, "quicklist", "quicklist")]
    {
        let mut list = List::new();
        list.push(End::Back, &[&vec![b'x'; 4080], &vec![b'x'; second]], &limits);
        assert_eq!(list.encoding(), before);
        list.set(0, b"a", &limits);
        assert_eq!(list.encoding(), after, "after setting, with {second} bytes");
    }
}

#[test]
fn a_hash_turns_behind_its_limits() {
    let limits = Limits::default();
    let mut hash = Hash::new();
    for number in 0..512 {
        hash.set(format!("f{number}").as_bytes(), b"v", &limits);
    }
    hash.set(b"f0", b"other", &limits);
    assert_eq!(hash.encoding(), "listpack");
    hash.set(b"one more", b"v", &limits);
    assert_eq!(hash.encoding(), "hashtable");
    for (size, encoding) in [(64, "listpack"), (65, "hashtable")] {
        let long = vec![b'x'; size];
        for (field, value) in [(&long[..], &b"v"[..]), (b"f", &long)] {
            let mut hash = Hash::new();
            hash.set(field, value, &limits);
            assert_eq!(hash.encoding(), encoding);
        }
    }
    let mut prepared = Hash::new();
    prepared.prepare(513, 1, &limits);
    assert_eq!(prepared.encoding(), "hashtable");
}

#[test]
fn a_set_turns_by_what_and_how_many_it_holds() {
    let limits = Limits::default();
    let set_of = |integers: u32, names: &[&[u8]]| {
        let mut set = Set::new();
        (0..integers).for_each(|number| _ = set.add(number.to_string().as_bytes(), &limits));
        names.iter().for_each(|name| _ = set.add(name, &limits));
        set
    };
    for (integers, names, encoding) in [
        (512, &[][..], "intset"),
        (513, &[], "hashtable"),
        (127, &[&b"m"[..]], "listpack"),
        (128, &[b"m"], "hashtable"),
        (1, &[&[b'x'; 64]], "listpack"),
        (1, &[&[b'x'; 65]], "hashtable"),
        (0, &[&[b'x'; 64]], "listpack"),
        (0, &[&[b'x'; 65]], "hashtable"),
    ] {
        assert_eq!(set_of(integers, names).encoding(), encoding, "{integers} integers and {} names", names.len());
    }
    let mut set = set_of(1, &[b"a"]);
    set.remove(b"a");
    assert_eq!(set.encoding(), "listpack");

    let named = |count: u32| {
        let mut set = Set::new();
        (0..count).for_each(|number| _ = set.add(format!("m{number}").as_bytes(), &limits));
        set.encoding()
    };
    assert_eq!((named(128), named(129)), ("listpack", "hashtable"));
    assert_eq!(Set::prepared(b"1", 201, &limits).encoding(), "intset");
    assert_eq!(Set::prepared(b"a", 128, &limits).encoding(), "listpack");
    assert_eq!(Set::prepared(b"a", 129, &limits).encoding(), "hashtable");
}

#[test]
fn a_sorted_set_turns_behind_its_limits() {
    let limits = Limits::default();
    let encoding_of = |count: u32, size: usize| {
        let mut sorted_set = SortedSet::new();
        for number in 0..count {
            let member = format!("{number:0size$}");
            sorted_set.set(member.as_bytes(), f64::from(number), &limits).unwrap();
        }
        sorted_set.encoding()
    };
    assert_eq!((encoding_of(128, 4), encoding_of(129, 4)), ("listpack", "skiplist"));
    assert_eq!((encoding_of(1, 64), encoding_of(1, 65)), ("listpack", "skiplist"));
    assert_eq!(SortedSet::prepared(129, 1, &limits).encoding(), "skiplist");
}

#[test]
fn negative_zero_is_zero_in_order_and_shows_only_when_big() {
    let limits = Limits::default();
    let (mut small, mut big) = (SortedSet::new(), SortedSet::prepared(200, 1, &limits));
    for sorted_set in [&mut small, &mut big] {
        sorted_set.set(b"b", -0.0, &limits).unwrap();
        sorted_set.set(b"a", 0.0, &limits).unwrap();
        assert_eq!(sorted_set.rank(b"a"), Some(0));
    }
    assert!(small.score(b"b").unwrap().is_sign_positive());
    assert!(big.score(b"b").unwrap().is_sign_negative());
}

#[test]
fn a_small_hash_weighs_little() {
    let limits = Limits::default();
    let mut hash = Hash::new();
    for number in 1..=5 {
        hash.set(format!("f{number}").as_bytes(), b"12byte!x", &limits);
    }
    let value = Value::from(hash);
    let bytes = value.memory_bytes() + size_of::<Value>();
    assert!(bytes <= 104, "{bytes} bytes");
    assert_eq!((value.type_name(), value.encoding(), value.len()), ("hash", "listpack", 5));
}
