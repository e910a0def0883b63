//! The judges themselves: planted lies are found, true histories pass, and the fast judge of registers agrees with a slow one
//! that tries every order.

use keyward_tests::Dice;

use crate::checks::{account, counter, queue, register};
use crate::history::{Ended, NEVER, Op, Queue, Register};

type Step = Op<Register, Option<u64>>;

fn wrote(value: u64, begin: u64, end: u64) -> Step {
    Op { asked: Register::Write(value), ended: Ended::Ok(None), begin, end }
}

fn perhaps_wrote(value: u64, begin: u64) -> Step {
    Op { asked: Register::Write(value), ended: Ended::Unknown, begin, end: begin + 1 }
}

fn read(value: Option<u64>, begin: u64, end: u64) -> Step {
    Op { asked: Register::Read, ended: Ended::Ok(value), begin, end }
}

#[test]
fn a_lost_write_and_a_stale_read_are_found() {
    assert_eq!(register(&[wrote(1, 10, 20), read(Some(1), 30, 40)]), None);
    // The write was acknowledged, and later nothing was there.
    assert!(register(&[wrote(1, 10, 20), read(None, 30, 40)]).is_some());
    // It came back: an old primary answered in between.
    assert!(register(&[wrote(1, 10, 20), wrote(2, 30, 40), read(Some(1), 50, 60)]).is_some());
    assert!(register(&[wrote(1, 10, 20), wrote(2, 30, 40), read(Some(2), 50, 60), read(Some(1), 70, 80)]).is_some());
    // While both are under way, either may be seen; but not the new one and then the old one.
    assert_eq!(register(&[wrote(1, 10, 20), wrote(2, 30, 90), read(Some(1), 40, 50), read(Some(2), 60, 70)]), None);
    assert!(register(&[wrote(1, 10, 20), wrote(2, 30, 90), read(Some(2), 40, 50), read(Some(1), 60, 70)]).is_some());
}

#[test]
fn a_write_nobody_knows_of_may_take_effect_late_or_never() {
    let before = [wrote(1, 10, 20), perhaps_wrote(2, 30)];
    let then = |reads: &[Step]| register(&[&before[..], reads].concat());
    assert_eq!(then(&[read(Some(1), 50, 60)]), None);
    assert_eq!(then(&[read(Some(1), 50, 60), read(Some(2), 70, 80)]), None);
    assert!(then(&[read(Some(2), 50, 60), read(Some(1), 70, 80)]).is_some());
    // One that was refused has no effect at all.
    let refused = Op { asked: Register::Write(3), ended: Ended::Failed, begin: 30, end: 40 };
    assert!(register(&[refused, read(Some(3), 50, 60)]).is_some());
    assert!(register(&[read(Some(4), 50, 60)]).is_some());
    assert!(register(&[read(Some(1), 5, 8), wrote(1, 10, 20)]).is_some());
}

#[test]
fn counters_queues_and_accounts_that_lie_are_found() {
    let told = |value, begin, end| Op { asked: (), ended: Ended::Ok(value), begin, end };
    let unknown = Op { asked: (), ended: Ended::Unknown, begin: 5, end: 6 };
    assert!(counter(&[told(1, 0, 1), told(2, 2, 3)], Some(2)).is_empty());
    assert!(counter(&[told(1, 0, 1), unknown, told(3, 7, 8)], Some(3)).is_empty());
    assert!(!counter(&[told(1, 0, 1), told(1, 2, 3)], Some(1)).is_empty());
    assert!(!counter(&[told(1, 0, 1), told(2, 2, 3)], Some(1)).is_empty());
    assert!(!counter(&[told(2, 0, 1), told(1, 2, 3)], Some(2)).is_empty());
    assert!(!counter(&[told(1, 0, 1), told(3, 2, 3)], Some(3)).is_empty());

    let pushed = |element, begin| Op { asked: Queue::Push(element), ended: Ended::Ok(None), begin, end: begin + 1 };
    let popped = |element, begin| Op { asked: Queue::Pop, ended: Ended::Ok(Some(element)), begin, end: begin + 1 };
    let lost = Op { asked: Queue::Pop, ended: Ended::Unknown, begin: 50, end: 51 };
    assert!(queue(&[pushed(1, 0), pushed(2, 2), popped(1, 4)], &[2]).is_empty());
    assert!(queue(&[pushed(1, 0), pushed(2, 2), popped(1, 4), lost], &[]).is_empty());
    assert!(!queue(&[pushed(1, 0), pushed(2, 2), popped(1, 4)], &[]).is_empty());
    assert!(!queue(&[pushed(1, 0), popped(1, 4), popped(1, 6)], &[]).is_empty());
    assert!(!queue(&[pushed(1, 0), pushed(2, 2), popped(2, 4), popped(1, 6)], &[]).is_empty());
    assert!(!queue(&[pushed(1, 0), popped(1, 4)], &[1]).is_empty());
    assert!(!queue(&[popped(9, 4)], &[]).is_empty());

    let saw = |one, other| Op { asked: 0, ended: Ended::Ok((one, other)), begin: 0, end: 1 };
    assert!(account(&[saw(-5, 5)], Some((0, 0))).is_empty());
    assert!(!account(&[saw(-5, 0)], None).is_empty());
    assert!(!account(&[], Some((-5, 4))).is_empty());
}

/// Whether some order explains the history: tries them all.
fn explained(left: &[Step], now: Option<u64>) -> bool {
    let must: Vec<&Step> = left.iter().filter(|op| op.ended != Ended::Unknown).collect();
    if must.is_empty() {
        return true;
    }
    // Only what began before everything that ended can come first.
    let first_end = must.iter().map(|op| op.end).min().unwrap_or(NEVER);
    (0..left.len()).filter(|at| left[*at].begin <= first_end).any(|at| {
        let next = match (left[at].asked, left[at].ended) {
            (Register::Write(value), _) => Some(value),
            (Register::Read, Ended::Ok(seen)) if seen == now => now,
            _ => return false,
        };
        let rest = [&left[..at], &left[at + 1..]].concat();
        explained(&rest, next)
    })
}

#[test]
fn the_fast_judge_agrees_with_the_slow_one() {
    let mut dice = Dice::from_env("KEYWARD_JUDGE_SEED");
    let (mut right, mut wrong) = (0, 0);
    for _ in 0..20_000 {
        let mut ops: Vec<Step> = Vec::new();
        let writes = 1 + dice.below(3) as u64;
        // No two moments are the same.
        let mut moments: Vec<u64> = (1..=40).collect();
        let mut moment = |dice: &mut Dice| moments.swap_remove(dice.below(moments.len()));
        let mut span = |dice: &mut Dice| {
            let (one, other) = (moment(dice), moment(dice));
            (one.min(other), one.max(other))
        };
        for value in 1..=writes {
            let (begin, end) = span(&mut dice);
            ops.push(if dice.one_in(4) {
                Op { asked: Register::Write(value), ended: Ended::Unknown, begin, end }
            } else {
                wrote(value, begin, end)
            });
        }
        for _ in 0..1 + dice.below(4) {
            let (begin, end) = span(&mut dice);
            let value = dice.below(writes as usize + 1) as u64;
            ops.push(read(Some(value).filter(|value| *value > 0), begin, end));
        }
        let (fast, slow) = (register(&ops), explained(&ops, None));
        assert_eq!(fast.is_none(), slow, "{ops:?}: {fast:?}");
        if slow { right += 1 } else { wrong += 1 }
    }
    assert!(right > 1000 && wrong > 1000, "{right} right and {wrong} wrong histories prove little");
}
