//! The log store against openraft's own suite, and against crashes: what was acknowledged is there after each of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use keyward_cluster::{Change, ClusterId, NodeId, Stamped, UnixMillis};
use openraft::storage::RaftLogStorage;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, StorageError};
use tempfile::TempDir;

use super::super::log_disk::fdatasync;
use super::super::raft_types::LeaderId;
use super::super::state_machine::StateMachine;
use super::super::view::Views;
use super::*;

/// The log is a folder of its own; the mark lies beside it.
fn open(dir: &Path, sync: SyncHook) -> Result<LogStore, DiskError> {
    LogStore::open(&dir.join("log"), sync)
}

struct Stores;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Stores {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = TempDir::new().unwrap();
        let log = open(dir.path(), fdatasync()).unwrap();
        let owner = Some((ClusterId([7; 16]), NodeId(1)));
        let machine = StateMachine::open(&dir.path().join("snapshots"), owner, Views::new(Arc::default())).unwrap();
        Ok((dir, log, machine))
    }
}

#[tokio::test]
async fn the_suite_of_openraft_passes() {
    Suite::test_all(Stores).await.unwrap();
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId { term, node_id: NodeId(1) }, index)
}

fn entry(term: u64, index: u64, value_bytes: usize) -> Entry {
    let change = Change::SetSetting { name: format!("s{index}"), value: Some("v".repeat(value_bytes)) };
    let stamped = Stamped { at: UnixMillis(1), actor: "test".into(), source: "test".into(), request: None, change };
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(stamped) }
}

fn identity() -> wire::Identity {
    wire::Identity { format: 1, cluster_id: vec![7; 16], node: 1, node_name: "one".into(), founder: true }
}

async fn append(store: &mut LogStore, entries: Vec<Entry>) -> io::Result<()> {
    let (done, flushed) = <TypeConfig as openraft::type_config::TypeConfigExt>::oneshot();
    store.append(entries, IOFlushed::signal(done)).await?;
    flushed.await.unwrap()
}

#[tokio::test]
async fn what_was_written_reads_back_after_closing() {
    let dir = TempDir::new().unwrap();
    let mut store = open(dir.path(), fdatasync()).unwrap();
    store.save_identity(identity()).await.unwrap();
    store.save_vote(&Vote::new_committed(3, NodeId(1))).await.unwrap();
    // The second is far larger than one sled value.
    let entries = vec![entry(3, 0, 10), entry(3, 1, 300_000), entry(3, 2, 10)];
    append(&mut store, entries.clone()).await.unwrap();
    store.save_committed(Some(log_id(3, 1))).await.unwrap();
    store.close().await.unwrap();
    drop(store);

    let mut store = open(dir.path(), fdatasync()).unwrap();
    assert_eq!(store.identity(), Some(identity()));
    assert_eq!(store.read_vote().await.unwrap(), Some(Vote::new_committed(3, NodeId(1))));
    assert_eq!(store.read_committed().await.unwrap(), Some(log_id(3, 1)));
    assert_eq!(store.try_get_log_entries(0..9).await.unwrap(), entries);
}

#[tokio::test]
async fn large_entries_leave_no_blob_files() {
    let dir = TempDir::new().unwrap();
    let mut store = open(dir.path(), fdatasync()).unwrap();
    store.save_identity(identity()).await.unwrap();
    for index in 0..40 {
        append(&mut store, vec![entry(1, index, 400_000)]).await.unwrap();
    }
    append(&mut store, vec![entry(1, 40, 8_000_000)]).await.unwrap();
    store.purge(log_id(1, 30)).await.unwrap();
    assert_eq!(fs::read_dir(dir.path().join("log/blobs")).unwrap().count(), 0);
    assert_eq!(store.try_get_log_entries(..).await.unwrap().len(), 10);
}

#[tokio::test]
async fn a_failed_sync_is_reported_and_final() {
    let dir = TempDir::new().unwrap();
    let broken = Arc::new(AtomicBool::new(false));
    let switch = broken.clone();
    let hook: SyncHook =
        Arc::new(
            move |file| {
                if switch.load(Ordering::SeqCst) { Err(io::Error::other("no space left")) } else { file.sync_data() }
            },
        );
    let mut store = open(dir.path(), hook).unwrap();
    append(&mut store, vec![entry(1, 0, 1)]).await.unwrap();
    broken.store(true, Ordering::SeqCst);
    assert!(append(&mut store, vec![entry(1, 1, 1)]).await.is_err());
    // The kernel may claim success from now on; we do not.
    broken.store(false, Ordering::SeqCst);
    assert!(append(&mut store, vec![entry(1, 2, 1)]).await.is_err());
    assert!(store.save_vote(&Vote::new(9, NodeId(1))).await.is_err());
}

#[tokio::test]
async fn a_lost_identity_beside_a_log_is_refused() {
    let dir = TempDir::new().unwrap();
    let mut store = open(dir.path(), fdatasync()).unwrap();
    append(&mut store, vec![entry(1, 0, 1)]).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let refused = open(dir.path(), fdatasync()).err().unwrap().to_string();
    assert!(refused.contains("identity record is missing"), "{refused}");
    assert!(refused.contains("empty the folder"), "{refused}");
}

#[tokio::test]
async fn flipped_bits_are_refused_or_change_nothing() {
    let dir = TempDir::new().unwrap();
    let mut store = open(dir.path(), fdatasync()).unwrap();
    store.save_identity(identity()).await.unwrap();
    let entries: Vec<Entry> = (0..20).map(|index| entry(1, index, 500)).collect();
    append(&mut store, entries.clone()).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let whole = fs::read(dir.path().join("log/db")).unwrap();
    let written = whole.iter().rposition(|byte| *byte != 0).unwrap();
    for round in 0..24 {
        let at = written * round / 24;
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        let copy = TempDir::new().unwrap();
        copy_dir(dir.path(), copy.path());
        fs::write(copy.path().join("log/db"), bytes).unwrap();
        let Ok(store) = open(copy.path(), fdatasync()) else { continue };
        // sled may discard a damaged tail by itself; the mark beside the log knows how much there was. A log that lost
        // even its owner is refused by the identity file.
        if store.is_empty() {
            continue;
        }
        assert_eq!(store.identity(), Some(identity()), "byte {at}");
        assert_eq!(store.read(0, u64::MAX, usize::MAX).unwrap(), entries, "byte {at}");
    }
}

/// A follower whose file was overwritten in the middle once came up with half its log, and its leader ended over that.
#[tokio::test]
async fn an_overwritten_middle_is_refused_or_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let mut store = open(dir.path(), fdatasync()).unwrap();
    store.save_identity(identity()).await.unwrap();
    let vote = Vote::new_committed(3, NodeId(1));
    store.save_vote(&vote).await.unwrap();
    for index in 0..300 {
        append(&mut store, vec![entry(3, index, 200)]).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    let whole = fs::read(dir.path().join("log/db")).unwrap();
    let written = whole.iter().rposition(|byte| *byte != 0).unwrap();
    let mut refused = Vec::new();
    for round in 0..16 {
        let at = written * round / 16;
        let mut bytes = whole.clone();
        let end = bytes.len().min(at + 4096);
        bytes[at..end].fill(0xa5);
        let copy = TempDir::new().unwrap();
        copy_dir(dir.path(), copy.path());
        fs::write(copy.path().join("log/db"), bytes).unwrap();
        match open(copy.path(), fdatasync()) {
            Err(error) => refused.push(error.to_string()),
            Ok(store) if store.is_empty() && store.identity().is_none() => {}
            Ok(mut store) => {
                assert_eq!(store.read_vote().await.unwrap(), Some(vote), "byte {at}");
                assert_eq!(store.read(0, u64::MAX, usize::MAX).unwrap().len(), 300, "byte {at}");
            }
        }
    }
    let lost = refused.iter().find(|text| text.contains("lost entries it had acknowledged"));
    let lost = lost.unwrap_or_else(|| panic!("no damage cut the log short: {refused:?}"));
    assert!(lost.contains("joins again under a new id"), "{lost}");
}

#[tokio::test]
async fn a_log_that_went_back_is_refused() {
    let dir = TempDir::new().unwrap();
    let mut store = open(dir.path(), fdatasync()).unwrap();
    store.save_identity(identity()).await.unwrap();
    store.save_vote(&Vote::new(1, NodeId(1))).await.unwrap();
    append(&mut store, (0..5).map(|index| entry(1, index, 10)).collect()).await.unwrap();
    let older = TempDir::new().unwrap();
    copy_dir(&dir.path().join("log"), older.path());
    append(&mut store, vec![entry(1, 5, 10)]).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let put_back = || {
        fs::remove_dir_all(dir.path().join("log")).unwrap();
        copy_dir(older.path(), &dir.path().join("log"));
    };
    put_back();
    for _ in 0..2 {
        let refused = open(dir.path(), fdatasync()).err().unwrap().to_string();
        assert!(refused.contains("ends before entry 5, but had reached 5"), "{refused}");
    }

    // Not an entry is missing, but a vote.
    fs::remove_file(dir.path().join("log.mark")).unwrap();
    let mut store = open(dir.path(), fdatasync()).unwrap();
    store.save_vote(&Vote::new(2, NodeId(1))).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    put_back();
    let refused = open(dir.path(), fdatasync()).err().unwrap().to_string();
    assert!(refused.contains("had voted in term 2"), "{refused}");
}

#[tokio::test]
async fn what_raft_itself_removes_is_not_missed() {
    let dir = TempDir::new().unwrap();
    let reopen = async |store: LogStore, last: Option<LogId>| {
        store.close().await.unwrap();
        drop(store);
        let mut store = open(dir.path(), fdatasync()).unwrap();
        assert_eq!(store.get_log_state().await.unwrap().last_log_id, last);
        store
    };
    let mut store = open(dir.path(), fdatasync()).unwrap();
    store.save_identity(identity()).await.unwrap();
    append(&mut store, (0..20).map(|index| entry(1, index, 10)).collect()).await.unwrap();
    store.truncate_after(Some(log_id(1, 9))).await.unwrap();
    let mut store = reopen(store, Some(log_id(1, 9))).await;
    store.purge(log_id(1, 9)).await.unwrap();
    let mut store = reopen(store, Some(log_id(1, 9))).await;
    // A snapshot from the leader reaches beyond the end of the log.
    store.purge(log_id(2, 40)).await.unwrap();
    let mut store = reopen(store, Some(log_id(2, 40))).await;
    append(&mut store, vec![entry(2, 41, 10), entry(2, 42, 10)]).await.unwrap();
    store.truncate_after(Some(log_id(2, 41))).await.unwrap();
    reopen(store, Some(log_id(2, 41))).await;
}

/// Power fails at a random moment: only what the last sync covered is left. Everything acknowledged before is there.
#[tokio::test]
async fn acknowledged_writes_survive_losing_everything_unsynced() {
    for seed in 0..12 {
        crash_round(seed).await;
    }
}

async fn crash_round(seed: u64) {
    let (live, durable) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let syncs = Arc::new(AtomicU64::new(0));
    let hook = image_at_sync(live.path().to_owned(), durable.path().to_owned(), syncs.clone());
    let mut store = open(live.path(), hook).unwrap();
    store.save_identity(identity()).await.unwrap();
    let mut dice = Dice(seed);
    let (mut acknowledged, mut vote, mut purged): (Vec<Entry>, _, u64) = (Vec::new(), None, 0);
    let mut term = 1;
    for _ in 0..dice.below(40) + 5 {
        let next = acknowledged.len() as u64;
        match dice.below(10) {
            0 => {
                term += 1;
                vote = Some(Vote::new(term, NodeId(1)));
                store.save_vote(&vote.unwrap()).await.unwrap();
            }
            1 if next > purged + 2 => {
                let keep = purged + dice.below(next - purged);
                store.truncate_after(Some(acknowledged[keep as usize].log_id)).await.unwrap();
                acknowledged.truncate(keep as usize + 1);
            }
            2 if next > purged + 4 => {
                purged += dice.below(2);
                store.purge(acknowledged[purged as usize].log_id).await.unwrap();
                purged += 1;
            }
            _ => {
                let size = if dice.below(8) == 0 { 40_000 } else { 100 };
                let entries: Vec<Entry> =
                    (next..next + dice.below(4) + 1).map(|index| entry(term, index, size)).collect();
                let before = syncs.load(Ordering::SeqCst);
                append(&mut store, entries.clone()).await.unwrap();
                assert!(syncs.load(Ordering::SeqCst) > before, "a callback fired before its sync, seed {seed}");
                acknowledged.extend(entries);
            }
        }
    }
    let image = TempDir::new().unwrap();
    copy_dir(durable.path(), image.path());
    let mut found = open(image.path(), fdatasync()).unwrap();
    assert_eq!(found.identity(), Some(identity()), "seed {seed}");
    assert_eq!(found.read_vote().await.unwrap(), vote, "seed {seed}");
    let entries = found.try_get_log_entries(..).await.unwrap();
    assert_eq!(entries, acknowledged[purged as usize..], "seed {seed}");
    // Its last flush still copies; let it finish before the folders go.
    store.close().await.unwrap();
}

/// A sync hook that keeps a copy of the folder as of the last sync: what a power cut would leave.
fn image_at_sync(live: PathBuf, durable: PathBuf, syncs: Arc<AtomicU64>) -> SyncHook {
    Arc::new(move |file| {
        file.sync_data()?;
        copy_dir(&live, &durable);
        syncs.fetch_add(1, Ordering::SeqCst);
        Ok(())
    })
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let path = item.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// A small generator: every roll comes from the seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}
