//! Where a tenant's keys are, if one group is to hold all of them whatever their slots.
//!
//! ```text
//!   wanted    the tenant's setting `group`; without it each key is to be with the group that has its slot
//!   held      as wanted, unless the setting `held-by` says otherwise: `slots`, one group, or one for each group's slots
//! ```
//! What is held becomes what is wanted by moves, one for each pair of groups, and each of them changes `held-by` in the entry
//! that hands the keys over ([`crate::moving`]). `held-by` is there as long as there is something to do. Keys are not known here.

use crate::{GroupId, Tenant, TenantNumber, Tenants};
use std::sync::Arc;

/// The setting that names the shard group that is to hold all of a tenant's keys.
pub(crate) const GROUP_SETTING: &str = "group";

/// The setting that says where they are meanwhile. Only moves write it.
const HELD_SETTING: &str = "held-by";

/// Which groups have a tenant's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holders {
    /// Each key is with the group that has its slot.
    Slots,
    /// One group has all of them.
    One(GroupId),
    /// They are on their way: group by group, who has the keys of its slots.
    Each(Vec<GroupId>),
}

impl Holders {
    /// Who has the keys whose slots are this group's.
    #[inline]
    pub fn of(&self, slots: GroupId) -> GroupId {
        match self {
            Holders::Slots => slots,
            Holders::One(group) => *group,
            Holders::Each(groups) => groups.get(slots.0 as usize).copied().unwrap_or(slots),
        }
    }

    /// Said in the shortest way, for groups that are numbered from 0.
    fn from_each(groups: Vec<GroupId>) -> Holders {
        let first = groups.first().copied().unwrap_or_default();
        if groups.iter().all(|group| *group == first) {
            return Holders::One(first);
        }
        let own = (0..).map(GroupId);
        if groups.iter().copied().zip(own).all(|(group, own)| group == own) {
            return Holders::Slots;
        }
        Holders::Each(groups)
    }

    fn text(&self) -> String {
        match self {
            Holders::Slots => String::from("slots"),
            Holders::One(group) => group.0.to_string(),
            Holders::Each(groups) => {
                let numbers: Vec<String> = groups.iter().map(|group| group.0.to_string()).collect();
                numbers.join(",")
            }
        }
    }

    /// What cannot be read counts as lying where slots say.
    fn read(text: &str) -> Holders {
        let groups: Option<Vec<GroupId>> = text.split(',').map(|word| word.parse().ok().map(GroupId)).collect();
        match groups.as_deref() {
            Some([group]) => Holders::One(*group),
            Some(groups) => Holders::Each(groups.to_vec()),
            None => Holders::Slots,
        }
    }
}

impl Tenant {
    /// The shard group that is to hold all of its keys, if that is not said by their slots.
    pub fn group(&self) -> Option<GroupId> {
        self.settings.get(GROUP_SETTING)?.parse().ok().map(GroupId)
    }

    /// Which groups have its keys now.
    pub fn holders(&self) -> Holders {
        match self.settings.get(HELD_SETTING) {
            Some(text) => Holders::read(text),
            None => self.wanted(),
        }
    }

    /// Whether its keys are not yet where they are to be.
    pub fn is_on_its_way(&self) -> bool {
        self.settings.get(HELD_SETTING).is_some()
    }

    /// Which groups are to have its keys.
    pub fn wanted(&self) -> Holders {
        self.group().map_or(Holders::Slots, Holders::One)
    }

    /// Notes which groups have its keys.
    pub(crate) fn set_holders(&mut self, holders: &Holders) {
        let text = (*holders != self.wanted()).then(|| holders.text());
        self.settings.set(HELD_SETTING, text.as_deref());
    }

    /// Between which groups keys are to be moved next.
    pub(crate) fn next_step(&self, groups: &[GroupId]) -> Option<(GroupId, GroupId)> {
        if !self.is_on_its_way() {
            return None;
        }
        let (held, wanted) = (self.holders(), self.wanted());
        groups.iter().map(|group| (held.of(*group), wanted.of(*group))).find(|(from, to)| from != to)
    }
}

impl Tenants {
    fn change(&mut self, index: u64, number: TenantNumber, change: impl FnOnce(&mut Tenant)) {
        if let Some(known) = self.number_mut(number) {
            let before = Tenant::clone(known);
            change(Arc::make_mut(known));
            if **known != before {
                Arc::make_mut(known).revision = index;
            }
        }
    }

    /// All keys of a tenant are to be held by this group, or `None`: by those that have their slots.
    pub(crate) fn want(&mut self, index: u64, number: TenantNumber, group: Option<GroupId>) {
        self.change(index, number, |tenant| {
            let held = tenant.holders();
            tenant.settings.set(GROUP_SETTING, group.map(|group| group.0.to_string()).as_deref());
            tenant.set_holders(&held);
        });
    }

    /// Nobody wants its keys moved any more: they go back, as far as they were moved.
    pub(crate) fn want_no_move(&mut self, index: u64, number: TenantNumber) {
        let Some(tenant) = self.numbered(number) else { return };
        let group = match (tenant.holders(), tenant.group()) {
            (Holders::One(group), _) => Some(group),
            (Holders::Slots, _) | (Holders::Each(_), Some(_)) => None,
            (Holders::Each(groups), None) => {
                let own = (0..).map(GroupId);
                groups.iter().copied().zip(own).find(|(group, own)| group != own).map(|(group, _)| group)
            }
        };
        self.want(index, number, group);
    }

    /// Keys of a tenant that were to go from one group to another are there.
    pub(crate) fn moved(
        &mut self,
        index: u64,
        number: TenantNumber,
        (from, to): (GroupId, GroupId),
        groups: &[GroupId],
    ) {
        self.change(index, number, |tenant| {
            let (held, wanted) = (tenant.holders(), tenant.wanted());
            let moves = |group: GroupId| held.of(group) == from && wanted.of(group) == to;
            let each = groups.iter().map(|group| if moves(*group) { to } else { held.of(*group) }).collect();
            tenant.set_holders(&Holders::from_each(each));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_written_and_read() {
        let each = |groups: &[u32]| Holders::from_each(groups.iter().copied().map(GroupId).collect());
        for (groups, text) in [(&[0, 1, 2][..], "slots"), (&[2, 2, 2], "2"), (&[2, 1, 2], "2,1,2")] {
            let holders = each(groups);
            assert_eq!(holders.text(), text);
            assert_eq!(Holders::read(text), holders);
            for (slots, group) in groups.iter().enumerate() {
                assert_eq!(holders.of(GroupId(slots as u32)), GroupId(*group));
            }
        }
        assert_eq!(Holders::read("nonsense"), Holders::Slots);
    }
}
