//! Whose scripts and libraries are whose: a Lua machine for each confined user, and one for everybody else.
//!
//! Names never meet: a library that one user loads cannot take the place of another's, and a script one user cached is
//! unknown to the others. A confined user calls its own functions first, then those of the platform, which run with the
//! caller's rights. In snapshots and in the journal a library is its text, with the owner in a line before it
//! ([`mark`]); the platform's have no such line, so that they read as Redis'.
//!
//! It knows no gate and no keys.

use keyward_engine::asks::Program;
use keyward_engine::dump::OWNED_LIBRARY;
use keyward_engine::holdings::Holdings;
use keyward_engine::scope::Owner;
use keyward_script::{Limits, Machine, MachineStats};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// Machines without libraries that are kept; the one whose owner comes first in no order anybody chose goes when there
/// are more. What it cached can be cached again.
const IDLE_MACHINES_MAX: usize = 256;

/// What the states of a confined user may take, compared with those of the platform.
const SHARE_OF_CONFINED: usize = 4;

/// What stands before the number of a tenant, where a user would have its name in hex digits.
const TENANT: &[u8] = b"tenant ";

/// The machines of one node.
pub(super) struct Machines {
    memory_bytes_max: usize,
    platform: Shared,
    confined: BTreeMap<Owner, Shared>,
    /// Who answers for how long their texts are.
    payers: BTreeMap<Owner, Weak<Holdings>>,
}

/// A machine, locked while it runs.
pub(super) type Shared = Arc<Mutex<Machine>>;

impl Machines {
    pub(super) fn new(memory_bytes_max: usize) -> Machines {
        let platform = Arc::new(Mutex::new(Machine::new(Limits { memory_bytes_max })));
        Machines { memory_bytes_max, platform, confined: BTreeMap::new(), payers: BTreeMap::new() }
    }

    /// The machine of this owner, made if need be.
    pub(super) fn of(&mut self, owner: &Owner) -> Shared {
        if *owner == Owner::Platform {
            return Arc::clone(&self.platform);
        }
        if !self.confined.contains_key(owner) {
            self.make_room();
        }
        let memory_bytes_max = self.memory_bytes_max / SHARE_OF_CONFINED;
        let new = || Arc::new(Mutex::new(Machine::new(Limits { memory_bytes_max })));
        Arc::clone(self.confined.entry(owner.clone()).or_insert_with(new))
    }

    /// These answer for the texts of an owner, until its machine goes.
    pub(super) fn are_paid_by(&mut self, owner: &Owner, holdings: &Arc<Holdings>) {
        let is_known = |known: &Weak<Holdings>| std::ptr::eq(known.as_ptr(), Arc::as_ptr(holdings));
        if self.confined.contains_key(owner) && !self.payers.get(owner).is_some_and(is_known) {
            self.payers.insert(owner.clone(), Arc::downgrade(holdings));
        }
    }

    fn make_room(&mut self) {
        let idle: Vec<&Owner> = self
            .confined
            .iter()
            // One that is locked runs.
            .filter(|(_, machine)| machine.try_lock().is_some_and(|machine| machine.stats().libraries == 0))
            .map(|(of, _)| of)
            .collect();
        if idle.len() >= IDLE_MACHINES_MAX {
            let first = idle[0].clone();
            self.confined.remove(&first);
            // Nothing of it is kept, and its owner may never come back to say so.
            let payer = self.payers.remove(&first).and_then(|payer| payer.upgrade());
            payer.iter().for_each(|payer| payer.note_texts(0));
        }
    }

    /// The machine that has a program as this owner means it: its own, or the platform's for a function it has not.
    /// Whoever asks is alone with what is the owner's, so its own machine does not run.
    pub(super) fn that_runs(&mut self, program: &Program, owner: &Owner) -> Shared {
        match program {
            Program::Function(name)
                if self.confined.get(owner).is_none_or(|own| own.lock().function(name).is_none()) =>
            {
                Arc::clone(&self.platform)
            }
            _ => self.of(owner),
        }
    }

    /// What the machine of one owner holds, or all of them.
    pub(super) fn sizes(&self, owner: Option<&Owner>) -> MachineStats {
        let machines = std::iter::once((&Owner::Platform, &self.platform)).chain(&self.confined);
        let counted = machines.filter(|(of, _)| owner.is_none_or(|owner| owner == *of));
        // One that runs is not waited for.
        let stats = counted.filter_map(|(_, machine)| Some(machine.try_lock()?.stats()));
        stats.fold(MachineStats::default(), MachineStats::plus)
    }

    /// No owner has any library.
    pub(super) fn flush_libraries(&mut self) {
        self.platform.lock().flush_libraries();
        self.confined.values().for_each(|machine| machine.lock().flush_libraries());
    }

    /// The texts of all libraries, those of confined users marked.
    pub(super) fn codes(&self) -> Vec<Vec<u8>> {
        let machines = std::iter::once((&Owner::Platform, &self.platform)).chain(&self.confined);
        let codes = |(owner, machine): (&Owner, &Shared)| -> Vec<Vec<u8>> {
            machine.lock().codes().iter().map(|code| mark(owner, code)).collect()
        };
        machines.flat_map(codes).collect()
    }

    /// The machine of an owner that has one.
    pub(super) fn known(&self, owner: &Owner) -> Option<Shared> {
        if *owner == Owner::Platform { Some(Arc::clone(&self.platform)) } else { self.confined.get(owner).cloned() }
    }

    /// Takes what [`Machines::codes`] returned. Nothing is loaded: see [`Machine::keep_library`]. Answers what is no library.
    pub(super) fn keep(&mut self, codes: &[Vec<u8>]) -> Result<(), String> {
        let mut outcome = Ok(());
        for code in codes {
            let (owner, code) = read(code);
            outcome = outcome.and(self.of(&owner).lock().keep_library(code));
        }
        outcome
    }
}

/// The text with its owner before it.
pub(super) fn mark(owner: &Owner, text: &[u8]) -> Vec<u8> {
    match owner {
        Owner::Platform => text.to_vec(),
        Owner::User(name) => {
            let digits: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
            [OWNED_LIBRARY, digits.as_bytes(), b"\n", text].concat()
        }
        Owner::Tenant(id) => [OWNED_LIBRARY, TENANT, id.to_string().as_bytes(), b"\n", text].concat(),
    }
}

/// What [`mark`] wrote. Anything else belongs to the platform.
pub(super) fn read(marked: &[u8]) -> (Owner, &[u8]) {
    let owned = || {
        let rest = marked.strip_prefix(OWNED_LIBRARY)?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        if let Some(id) = rest[..end].strip_prefix(TENANT) {
            let id = std::str::from_utf8(id).ok()?.parse().ok()?;
            return Some((Owner::Tenant(id), &rest[end + 1..]));
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let name: Option<Box<[u8]>> =
            rest[..end].chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect();
        Some((Owner::User(name?), &rest[end + 1..]))
    };
    owned().unwrap_or((Owner::Platform, marked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        for owner in [
            Owner::Platform,
            Owner::User(b"app".as_slice().into()),
            Owner::User(b"\n\x00".as_slice().into()),
            Owner::Tenant(7),
        ] {
            assert_eq!(read(&mark(&owner, b"#!lua name=x\n")), (owner, &b"#!lua name=x\n"[..]));
        }
        assert_eq!(read(b"#!keyward-owner zz\nx").0, Owner::Platform);
        assert_eq!(read(b"#!keyward-owner 6").0, Owner::Platform);
    }

    #[test]
    fn machines_that_only_cache_are_bounded() {
        let mut machines = Machines::new(64 << 20);
        for number in 0..IDLE_MACHINES_MAX + 10 {
            let owner = Owner::User(number.to_string().into_bytes().into());
            machines.of(&owner).lock().load_script(b"return 1", true).unwrap();
        }
        assert_eq!(machines.confined.len(), IDLE_MACHINES_MAX);
    }

    // The texts of a machine that was dropped were held against its owner until it used scripts again.
    #[test]
    fn texts_of_a_machine_that_went_are_nobodys() {
        let mut machines = Machines::new(64 << 20);
        let holdings: Vec<Arc<Holdings>> = (0..=IDLE_MACHINES_MAX).map(|_| Arc::default()).collect();
        for (number, holdings) in holdings.iter().enumerate() {
            let owner = Owner::User(number.to_string().into_bytes().into());
            let machine = machines.of(&owner);
            machines.are_paid_by(&owner, holdings);
            machine.lock().load_script(b"return 1", true).unwrap();
            holdings.note_texts(machine.lock().text_bytes() as u64);
        }
        let counted = holdings.iter().filter(|holdings| holdings.held().texts > 0).count();
        assert_eq!((counted, machines.payers.len()), (IDLE_MACHINES_MAX, IDLE_MACHINES_MAX));
    }
}
