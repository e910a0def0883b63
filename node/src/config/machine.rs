//! What this machine grants the process: name, cores, memory, open files. Knows files of Linux, no setting.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The facts that defaults are derived from; passed as a value so that tests can invent a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Host name; in a StatefulSet the pod's name.
    pub hostname: String,
    /// Cores this process may use, after cgroup quota and affinity.
    pub cores: usize,
    /// Memory this process may use: the smallest of the cgroup limits and the machine's memory.
    pub memory_bytes: u64,
    /// How many files the process may have open once it asks for all it can get.
    pub open_files: u64,
}

impl Machine {
    /// Asks the operating system.
    pub fn look() -> Self {
        Self {
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory_bytes(Path::new("/")),
            open_files: getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
        }
    }
}

/// Raises the process' own limit of open files to `wanted`, or as far as it may. Answers the limit now in force.
pub fn raise_open_files(wanted: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    let target = wanted.min(limit.maximum.unwrap_or(u64::MAX));
    if current >= target {
        return current;
    }
    let raised = Rlimit { current: Some(target), maximum: limit.maximum };
    if setrlimit(Resource::Nofile, raised).is_ok() { target } else { current }
}

/// The memory the process under `root` may use; zero if nothing is known.
fn memory_bytes(root: &Path) -> u64 {
    let machine = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| mem_total_bytes(&text));
    let cgroup = cgroup_limit_bytes(root);
    match (machine, cgroup) {
        (Some(machine), Some(cgroup)) => machine.min(cgroup),
        (machine, cgroup) => machine.or(cgroup).unwrap_or(0),
    }
}

fn mem_total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The smallest memory limit of the process' cgroup and all groups above it, version 2 or 1.
fn cgroup_limit_bytes(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let limits = groups.lines().filter_map(|line| {
        let (_, line) = line.split_once(':')?;
        let (controllers, path) = line.split_once(':')?;
        if controllers.is_empty() {
            smallest_limit(&root.join("sys/fs/cgroup"), path, "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            smallest_limit(&root.join("sys/fs/cgroup/memory"), path, "memory.limit_in_bytes")
        } else {
            None
        }
    });
    limits.min()
}

/// Walks from the group up to the mount. A container often sees a path of the host that does not exist inside; what
/// counts there is the file at the mount itself, which the walk reaches last. `max` (no limit) does not parse.
fn smallest_limit(mount: &Path, group: &str, file: &str) -> Option<u64> {
    let group = mount.join(group.trim_start_matches('/'));
    let directories = group.ancestors().take_while(|directory| directory.starts_with(mount));
    directories.filter_map(|directory| fs::read_to_string(directory.join(file)).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:        8388608 kB\nMemFree: 1 kB\n");

    #[test]
    fn without_a_cgroup_the_machine_decides() {
        assert_eq!(memory_bytes(machine(&[MEMINFO]).path()), 8 << 30);
        assert_eq!(memory_bytes(machine(&[]).path()), 0);
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let root = machine(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/pod/container\n"),
            ("sys/fs/cgroup/pod/container/memory.max", "max\n"),
            ("sys/fs/cgroup/pod/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/memory.max", "2147483648\n"),
        ]);
        assert_eq!(memory_bytes(root.path()), 1 << 30);
    }

    #[test]
    fn a_container_that_sees_the_path_of_its_host_reads_the_mount() {
        let root =
            machine(&[MEMINFO, ("proc/self/cgroup", "0::/../host/path\n"), ("sys/fs/cgroup/memory.max", "4096\n")]);
        assert_eq!(memory_bytes(root.path()), 4096);
    }

    #[test]
    fn version_1_without_a_limit_prints_a_huge_number() {
        let root = machine(&[
            MEMINFO,
            ("proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/a\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        assert_eq!(memory_bytes(root.path()), 8 << 30);
        fs::write(root.path().join("sys/fs/cgroup/memory/a/memory.limit_in_bytes"), "123456\n").unwrap();
        assert_eq!(memory_bytes(root.path()), 123_456);
    }

    #[test]
    fn raising_open_files_never_lowers_them() {
        let before = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert!(raise_open_files(1) >= before);
        assert!(raise_open_files(u64::MAX) >= before);
    }
}
