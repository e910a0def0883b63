//! Who is told of which keys, who is missed, and in whose place.

use super::*;
use keyward_engine::scope::Reach;

fn options(mode: TrackingMode) -> TrackingOptions {
    TrackingOptions { mode, no_loop: false, redirect: None, prefixes: Vec::new() }
}

fn client(id: u64, options: TrackingOptions) -> (Arc<Mailbox>, Arc<Tracker>) {
    let mailbox = Mailbox::new(10_000, None);
    mailbox.set_protocol(Protocol::Resp3);
    mailbox.standing.set_reach(Reach::Everything);
    (Arc::clone(&mailbox), Tracker::new(id, options, TenantId::SHARED, mailbox, None))
}

fn mail(mailbox: &Mailbox) -> String {
    let mut bytes = Vec::new();
    mailbox.collect(&mut bytes);
    String::from_utf8_lossy(&bytes).replace("\r\n", " ")
}

#[test]
fn a_reader_is_told_once() {
    let (tracking, mut keys) = (Tracking::default(), TrackedKeys::default());
    let (mailbox, tracker) = client(1, options(TrackingMode::Every));
    tracking.add(&tracker);
    keys.remember(b"k", &tracker, &tracking, 0);
    keys.remember(b"k", &tracker, &tracking, 0);
    assert_eq!((tracking.keys.load(Ordering::Relaxed), tracking.items.load(Ordering::Relaxed)), (1, 1));
    keys.changed(TenantId::SHARED, b"k", 2, &tracking);
    keys.changed(TenantId::SHARED, b"k", 2, &tracking);
    assert_eq!(mail(&mailbox), ">2 $10 invalidate *1 $1 k ");
    assert!(keys.is_empty());
}

#[test]
fn who_changes_a_key_elsewhere_is_told_at_once_and_who_is_not_told_of_its_own_changes_is_of_the_next() {
    let (tracking, mut keys) = (Tracking::default(), TrackedKeys::default());
    let (mailbox, tracker) = client(1, options(TrackingMode::Every));
    let (silent, alone) = client(2, TrackingOptions { no_loop: true, ..options(TrackingMode::Every) });
    [&tracker, &alone].into_iter().for_each(|tracker| tracking.add(tracker));
    [&tracker, &alone].into_iter().for_each(|tracker| keys.remember(b"k", tracker, &tracking, 0));
    keys.outdate(b"k", &tracker, &tracking);
    assert_eq!((mail(&mailbox), mail(&silent)), (">2 $10 invalidate *1 $1 k ".to_owned(), String::new()));
    keys.changed(TenantId::SHARED, b"k", 2, &tracking);
    assert_eq!((mail(&mailbox), mail(&silent)), (String::new(), String::new()), "the one forgot it, the other did it");
    keys.changed(TenantId::SHARED, b"k", 1, &tracking);
    assert_eq!(mail(&silent), ">2 $10 invalidate *1 $1 k ");
    assert!(keys.is_empty());
    assert_eq!((tracking.keys.load(Ordering::Relaxed), tracking.items.load(Ordering::Relaxed)), (0, 0));
    tracking.tell_of_gap();
    assert_eq!((mail(&mailbox), mail(&silent)), (">2 $10 invalidate _ ".to_owned(), ">2 $10 invalidate _ ".to_owned()));
}

// Each read of a key was compared with everybody's who had read it, and each write by one tenant with the readers of another's
// key of that name.
#[test]
fn the_readers_of_a_key_stand_in_order_each_once_and_those_of_other_names_are_not_looked_at() {
    let (tracking, mut keys) = (Tracking::default(), TrackedKeys::default());
    let worlds = [TenantId::SHARED, TenantId::with_namespace(1), TenantId::with_namespace(2)];
    let mut readers = Vec::new();
    for id in 0..300_u64 {
        // In no order.
        let (id, world) = (id * 7 % 300, worlds[id as usize % 3]);
        let mailbox = Mailbox::new(10_000, None);
        mailbox.set_protocol(Protocol::Resp3);
        mailbox.standing.set_reach(Reach::Everything);
        let new = || Tracker::new(id, options(TrackingMode::Every), world, Arc::clone(&mailbox), None);
        let (before, now) = (new(), new());
        tracking.add(&now);
        // It changed its mind, and reads on.
        [&before, &now, &now].into_iter().for_each(|tracker| keys.remember(b"k", tracker, &tracking, 0));
        readers.push((mailbox, now));
    }
    assert_eq!(tracking.items.load(Ordering::Relaxed), 300);
    assert!(keys.readers[&b"k"[..]].is_sorted_by_key(|reader| (reader.world, reader.client)));
    assert!(worlds.iter().all(|world| within(&keys.readers[&b"k"[..]], *world).len() == 100));
    keys.changed(worlds[1], b"k", 0, &tracking);
    keys.outdate(b"k", &readers[0].1, &tracking);
    for (at, (mailbox, tracker)) in readers.iter().enumerate() {
        let is_told = at == 0 || tracker.world == worlds[1];
        assert_eq!(mail(mailbox).is_empty(), !is_told, "client {}", tracker.client);
    }
    assert_eq!(tracking.items.load(Ordering::Relaxed), 199);
}

#[test]
fn past_the_bound_another_key_is_forgotten_and_told() {
    let (tracking, mut keys) = (Tracking::default(), TrackedKeys::default());
    let (mailbox, tracker) = client(1, options(TrackingMode::Every));
    tracking.add(&tracker);
    keys.remember(b"a", &tracker, &tracking, 1);
    keys.remember(b"b", &tracker, &tracking, 1);
    assert_eq!(mail(&mailbox), ">2 $10 invalidate *1 $1 a ");
    assert_eq!(tracking.keys.load(Ordering::Relaxed), 1);
}

#[test]
fn a_key_that_many_read_is_forgotten_before_its_readers_are_too_many() {
    let (tracking, mut keys) = (Tracking::default(), TrackedKeys::default());
    let readers: Vec<_> = (0..=ITEMS_PER_KEY as u64).map(|id| client(id, options(TrackingMode::Every))).collect();
    readers.iter().for_each(|(_, tracker)| tracking.add(tracker));
    let (last, others) = readers.split_last().expect("there are some");
    others.iter().for_each(|(_, tracker)| keys.remember(b"k", tracker, &tracking, 1));
    assert_eq!((mail(&others[0].0), tracking.items.load(Ordering::Relaxed)), (String::new(), ITEMS_PER_KEY));
    keys.remember(b"k", &last.1, &tracking, 1);
    assert_eq!(mail(&others[0].0), ">2 $10 invalidate *1 $1 k ");
    assert_eq!((tracking.keys.load(Ordering::Relaxed), tracking.items.load(Ordering::Relaxed)), (0, 0));
}

// Each held so little that nobody looked for it, and twenty thousand of them held ninety megabytes.
#[test]
fn what_many_small_caches_leave_behind_is_forgotten() {
    let (tracking, mut keys) = (Tracking::default(), TrackedKeys::default());
    let clients = LEFT_BYTES / bytes_of(b"k") + 1;
    for id in 0..clients {
        assert!(!tracking.take_some_left(), "a few are not worth a look at every key");
        let (_, tracker) = client(id, options(TrackingMode::Every));
        tracking.add(&tracker);
        keys.remember(b"k", &tracker, &tracking, 0);
        tracking.remove(id);
    }
    assert_eq!(tracking.items.load(Ordering::Relaxed), clients as usize);
    assert!(tracking.take_some_left());
    keys.forget_those_who_left(&tracking);
    assert_eq!((tracking.keys.load(Ordering::Relaxed), tracking.items.load(Ordering::Relaxed)), (0, 0));
    assert!(!tracking.take_some_left());
}

#[test]
fn nobody_is_told_of_keys_that_do_not_exist_for_its_user() {
    let tracking = Tracking::default();
    let (mailbox, tracker) = client(1, options(TrackingMode::Broadcast));
    tracking.add(&tracker);
    mailbox.standing.set_reach(Reach::Nothing);
    tracking.broadcast(TenantId::SHARED, b"user:1", 2);
    assert_eq!(mail(&mailbox), "");
}

#[test]
fn who_is_told_in_anothers_place_and_comes_after_it_hears_that_everything_may_have_changed() {
    let tracking = Tracking::default();
    let (_own, reader) = client(1, options(TrackingMode::Every));
    let (listener, _) = client(2, options(TrackingMode::Every));
    let asked = TrackingOptions { redirect: Some(2), ..options(TrackingMode::Every) };
    let until = Instant::now() + std::time::Duration::from_secs(3600);
    let reader = Tracker::new(1, asked, TenantId::SHARED, Arc::clone(&reader.own), Some(Target::Awaited(until)));
    tracking.add(&reader);
    reader.tell(b"k", 0);
    assert!(!reader.is_broken(), "it is on its way");
    tracking.meet(3, &listener);
    assert_eq!(mail(&listener), "");
    listener.set_away(true);
    tracking.meet(2, &listener);
    assert_eq!(mail(&listener), "", "another node serves it: nobody would read its mail here");
    listener.set_away(false);
    tracking.meet(2, &listener);
    assert_eq!(mail(&listener), ">2 $10 invalidate _ ");
    assert!(listener.stands_in() && tracking.is_told_for_others(2), "it moves along with the data again");
    reader.tell(b"k", 0);
    assert!(mail(&listener).contains("k"));
    tracking.give_up(until);
    assert!(!reader.is_broken(), "it has come");
}

// What changed while it was awaited was told to nobody, and nobody looked when it had not come: a key that was read and
// written just after the data moved was old in the cache for good.
#[test]
fn who_is_told_in_anothers_place_and_does_not_come_is_missed_without_another_write() {
    let tracking = Tracking::default();
    let (own, _) = client(1, options(TrackingMode::Every));
    let (plain, _) = client(3, options(TrackingMode::Every));
    plain.set_protocol(Protocol::Resp2);
    let (now, second) = (Instant::now(), std::time::Duration::from_secs(1));
    let reader = |id, mailbox: &Arc<Mailbox>, until| {
        let asked = TrackingOptions { redirect: Some(2), ..options(TrackingMode::Every) };
        let reader = Tracker::new(id, asked, TenantId::SHARED, Arc::clone(mailbox), Some(Target::Awaited(until)));
        tracking.add(&reader);
        reader
    };
    let (told, closed) = (reader(1, &own, now + second), reader(3, &plain, now + 2 * second));
    [&told, &closed].into_iter().for_each(|reader| reader.tell(b"k", 0));
    tracking.give_up(now);
    assert!(!told.is_broken() && !closed.is_broken() && !plain.is_killed(), "it may still come");
    tracking.give_up(now + second);
    assert_eq!((mail(&own), told.is_broken()), (">2 $21 tracking-redir-broken :2 ".to_owned(), true));
    assert!(!plain.is_killed(), "it may still come for the other one");
    tracking.give_up(now + 2 * second);
    assert!(plain.is_killed(), "it cannot be told, and must not go on with an old cache");
    let (late, _) = client(2, options(TrackingMode::Every));
    tracking.meet(2, &late);
    assert_eq!((mail(&late), mail(&own), told.target()), (String::new(), String::new(), Some((2, false))));
}

#[test]
fn who_is_told_in_anothers_place_and_leaves_for_another_node_is_waited_for() {
    let tracking = Tracking::default();
    let (listener, _) = client(2, options(TrackingMode::Every));
    let (own, _) = client(1, options(TrackingMode::Every));
    let asked = TrackingOptions { redirect: Some(2), ..options(TrackingMode::Every) };
    let here = Some(Target::here(&listener));
    let reader = Tracker::new(1, asked, TenantId::SHARED, Arc::clone(&own), here);
    tracking.add(&reader);
    let now = Instant::now();
    tracking.give_up(now);
    tracking.part(2, now);
    reader.tell(b"k", 0);
    assert_eq!((mail(&listener), reader.is_broken()), (String::new(), false));
    tracking.give_up(now);
    assert_eq!(mail(&own), ">2 $21 tracking-redir-broken :2 ");
}

#[test]
fn who_is_told_in_anothers_place_and_is_gone_is_missed_even_if_keys_are_remembered_for_it() {
    let (tracking, mut keys) = (Tracking::default(), TrackedKeys::default());
    let (target, its_own) = client(1, options(TrackingMode::Every));
    keys.remember(b"k", &its_own, &tracking, 0);
    let (own, _) = client(2, options(TrackingMode::Every));
    let asked = TrackingOptions { redirect: Some(1), ..options(TrackingMode::Every) };
    let tracker =
        Tracker::new(2, asked, TenantId::SHARED, Arc::clone(&own), Some(Target::Here(Arc::downgrade(&target))));
    tracker.tell(b"k", 3);
    assert_eq!((mail(&target), tracker.is_broken()), (">2 $10 invalidate *1 $1 k ".to_owned(), false));
    target.close();
    tracker.tell(b"k", 3);
    assert_eq!((target.len_bytes(), tracker.is_broken()), (0, true));
    assert_eq!(mail(&own), ">2 $21 tracking-redir-broken :1 ");
}

#[test]
fn a_prefix_is_told_whoever_read_what() {
    let tracking = Tracking::default();
    let wanted = TrackingOptions { prefixes: vec![b"user:".to_vec()], ..options(TrackingMode::Broadcast) };
    let (mailbox, tracker) = client(1, wanted);
    tracking.add(&tracker);
    assert!(tracking.has_broadcasts());
    tracking.broadcast(TenantId::SHARED, b"user:1", 2);
    tracking.broadcast(TenantId::SHARED, b"item:1", 2);
    tracking.broadcast(TenantId::SHARED, b"user:0", 2);
    tracking.broadcast(TenantId::SHARED, b"user:1", 2);
    assert_eq!(mail(&mailbox), "");
    tracking.deliver();
    tracking.deliver();
    assert_eq!(mail(&mailbox), ">2 $10 invalidate *2 $6 user:0 $6 user:1 ");
    tracking.remove(1);
    assert!(!tracking.has_broadcasts());
}
