//! A network of its own for every node, so that it can be cut: namespaces on one bridge, Linux and root only.
//!
//! ```text
//!   clients (this namespace) ── bridge ─┬─ node 1 in its namespace
//!                                       ├─ node 2 …
//!                                       └─ node 3
//! ```
//! Every station knows the others' hardware addresses by heart (nobody asks by ARP). A direction is cut by giving the sender a
//! wrong one: its packets to that station vanish without a word, as on a broken switch, and nothing else changes. Station 0
//! are the clients. What an earlier run left behind when it was killed is removed by the next one.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

/// The name of everything made here begins so.
const PREFIX: &str = "kwf";

/// Where the clients are.
pub const CLIENTS: usize = 0;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Namespaces and a bridge; gone when dropped.
#[derive(Debug)]
pub struct Net {
    /// `kwf-<pid>-<number>`; with `-<node>` behind it the name of a namespace.
    tag: String,
    bridge: String,
    subnet: u8,
    nodes: usize,
}

impl Net {
    /// A network for so many nodes, or why this machine cannot have one.
    pub fn lay(nodes: usize) -> Result<Net, String> {
        if !Path::new("/proc/self/ns/net").exists() {
            return Err("this system has no network namespaces".to_owned());
        }
        sweep();
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let pid = process::id();
        let bridge = format!("{PREFIX}{pid}b{number}");
        let mut subnet = (pid.wrapping_mul(7).wrapping_add(number) % 250) as u8;
        ip(&format!("link add {bridge} address {} type bridge stp_state 0", mac(CLIENTS)))?;
        // From here on dropping cleans up.
        let mut net = Net { tag: format!("{PREFIX}-{pid}-{number}"), bridge, subnet, nodes };
        let bridge = net.bridge.clone();
        for _ in 0..250 {
            let range = format!("10.199.{subnet}.0/24");
            let taken = ip(&format!("route show {range}")).is_ok_and(|routes| !routes.trim().is_empty());
            if !taken {
                break;
            }
            subnet = subnet.wrapping_add(1) % 250;
        }
        net.subnet = subnet;
        ip(&format!("addr add {}/24 dev {bridge}", net.host(CLIENTS)))?;
        ip(&format!("link set {bridge} up"))?;
        for node in 1..=nodes {
            let (namespace, near) = (net.namespace(node), format!("{bridge}n{node}"));
            ip(&format!("netns add {namespace}"))?;
            ip(&format!("link add {near} type veth peer name eth0 address {} netns {namespace}", mac(node)))?;
            ip(&format!("link set {near} master {bridge} up"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
            ip(&format!("-n {namespace} addr add {}/24 dev eth0", net.host(node)))?;
            ip(&format!("-n {namespace} link set eth0 up"))?;
        }
        net.heal();
        Ok(net)
    }

    /// The address of a station.
    pub fn host(&self, station: usize) -> Ipv4Addr {
        let last = if station == CLIENTS { 254 } else { station as u8 };
        Ipv4Addr::new(10, 199, self.subnet, last)
    }

    /// The namespace of a node.
    pub fn namespace(&self, node: usize) -> String {
        format!("{}-{node}", self.tag)
    }

    /// Nothing `from` sends reaches `to` any more.
    pub fn cut(&self, from: usize, to: usize) {
        self.point(from, to, "02:6b:77:ff:ff:ff");
    }

    /// Nothing passes between the two.
    pub fn part(&self, one: usize, other: usize) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// The node is alone, without clients too.
    pub fn isolate(&self, node: usize) {
        (0..=self.nodes).filter(|other| *other != node).for_each(|other| self.part(node, other));
    }

    /// The node is alone with the clients.
    pub fn isolate_from_nodes(&self, node: usize) {
        (1..=self.nodes).filter(|other| *other != node).for_each(|other| self.part(node, other));
    }

    /// Everybody reaches everybody.
    pub fn heal(&self) {
        for from in 0..=self.nodes {
            (0..=self.nodes).filter(|to| *to != from).for_each(|to| self.point(from, to, &mac(to)));
        }
    }

    fn point(&self, from: usize, to: usize, mac: &str) {
        let place = match from {
            CLIENTS => format!("neigh replace {} lladdr {mac} nud permanent dev {}", self.host(to), self.bridge),
            node => {
                let namespace = self.namespace(node);
                format!("-n {namespace} neigh replace {} lladdr {mac} nud permanent dev eth0", self.host(to))
            }
        };
        ip(&place).unwrap_or_else(|error| panic!("a direction cannot be changed: {error}"));
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for node in 1..=self.nodes {
            // One that was never made is gone already.
            let _ = ip(&format!("netns del {}", self.namespace(node)));
        }
        let _ = ip(&format!("link del {}", self.bridge));
    }
}

fn mac(station: usize) -> String {
    format!("02:6b:77:00:00:{:02x}", station + 1)
}

/// Removes what test processes left behind that are gone.
fn sweep() {
    let is_gone = |name: &str| {
        let pid = name.strip_prefix(PREFIX)?.trim_start_matches('-');
        let pid: String = pid.chars().take_while(char::is_ascii_digit).collect();
        (!pid.is_empty() && !Path::new("/proc").join(&pid).exists()).then_some(())
    };
    let names = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    for name in names("/run/netns").iter().filter(|name| is_gone(name).is_some()) {
        let _ = ip(&format!("netns del {name}"));
    }
    for name in names("/sys/class/net").iter().filter(|name| is_gone(name).is_some()) {
        let _ = ip(&format!("link del {name}"));
    }
}

fn ip(arguments: &str) -> Result<String, String> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .map_err(|error| format!("the program `ip` cannot be run: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}
