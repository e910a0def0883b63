//! Free ports, below the kernel's range for outgoing connections so that no client can take one in between.

use std::net::{Ipv4Addr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

const LOWEST: u16 = 10_240;
const HIGHEST: u16 = 28_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// `count` ports on which nobody listens. Two calls in one process never give the same port.
pub fn free_ports(count: usize) -> Vec<u16> {
    let mut found = Vec::with_capacity(count);
    while found.len() < count {
        let port = next(1);
        if is_free(port) {
            found.push(port);
        }
    }
    found
}

/// A first port P so that P+i, P+1000+i, P+2000+i and P+3000+i are free for i below `nodes`: what `keyward demo` takes.
pub fn free_block(nodes: u16) -> u16 {
    loop {
        let first = next(nodes);
        if first + 3000 + nodes > 32_000 {
            continue;
        }
        let all_free = (0..4).all(|kind| (0..nodes).all(|i| is_free(first + kind * 1000 + i)));
        if all_free {
            return first;
        }
    }
}

fn next(width: u16) -> u16 {
    // Each process starts somewhere else, so that two test runs on one machine rarely meet.
    let _ = NEXT.compare_exchange(0, start(), Ordering::SeqCst, Ordering::SeqCst);
    let first = |next: u16| if next + width >= HIGHEST { LOWEST } else { next };
    let next = NEXT
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |next| Some(first(next) + width))
        .expect("the closure always answers Some");
    first(next)
}

fn start() -> u16 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    let spread = u32::from(HIGHEST - LOWEST);
    let offset = (process::id().wrapping_mul(2_654_435_761) ^ now) % spread;
    LOWEST + u16::try_from(offset).expect("the remainder is below the spread, which is a u16")
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
