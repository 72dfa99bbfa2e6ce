use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use mtinet_data::phantom::{self, PhantomOptions};
use mtinet_data::{Dataset, PortableDataset, folds};
use mtinet_domain::trial::ArtifactRef;
use tokio::sync::Notify;

use super::{DataCache, Lease, Source};

/// A store that a test fills, with everything that was asked of it.
#[derive(Default)]
struct Store {
    lists: BTreeMap<String, Vec<u8>>,
    files: BTreeMap<String, PathBuf>,
    brought: Mutex<Vec<String>>,
    listed: AtomicUsize,
    /// Files that are brought before the next one fails.
    left: Mutex<Option<usize>>,
    /// The first list is held back until this is told.
    gate: Option<Notify>,
}

impl Store {
    fn put(&mut self, dataset: &Dataset) -> PortableDataset {
        let (portable, sources) = PortableDataset::of(dataset).unwrap();
        self.lists.insert(portable.hash(), portable.to_json().unwrap());
        self.files.extend(sources);
        portable
    }

    fn brought(&self) -> usize {
        self.brought.lock().unwrap().len()
    }
}

impl Source for Store {
    async fn list(&self, hash: &str) -> Result<Vec<u8>, String> {
        if let (0, Some(gate)) = (self.listed.fetch_add(1, Ordering::SeqCst), &self.gate) {
            gate.notified().await;
        }
        self.lists.get(hash).cloned().ok_or_else(|| "nobody has it".to_owned())
    }

    async fn bring(&self, file: ArtifactRef, dest: &Path) -> Result<(), String> {
        if let Some(left) = &mut *self.left.lock().unwrap() {
            *left = left.checked_sub(1).ok_or("the coordinator is gone")?;
        }
        self.brought.lock().unwrap().push(file.blake3.clone());
        std::fs::copy(&self.files[&file.blake3], dest).map_err(|error| error.to_string())?;
        Ok(())
    }
}

/// A data set of a few subjects; another seed makes other images.
fn dataset(dir: &Path, seed: u64) -> Dataset {
    let options =
        PhantomOptions { subjects: 10, size: 32, slices_per_subject: 2, seed, ..PhantomOptions::default() };
    phantom::write(&dir.join(seed.to_string()), &options, &|_, _| {}).unwrap()
}

async fn acquire(cache: &DataCache, hash: &str, store: &Store) -> Result<Lease, String> {
    cache.acquire(hash, store, &|_| {}).await
}

fn first_file(dir: &Path) -> PathBuf {
    let mut files: Vec<_> =
        std::fs::read_dir(dir.join("files")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.remove(0)
}

/// Says that a data set was last used at some time.
fn used_at(root: &Path, hash: &str, seconds: u64) {
    let lock = std::fs::File::options().write(true).open(root.join(format!("{hash}.lock"))).unwrap();
    lock.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_fetched_is_the_data_set_and_is_fetched_once() {
    let here = tempfile::tempdir().unwrap();
    let wanted = dataset(here.path(), 1);
    let mut store = Store::default();
    let files = store.put(&wanted).files().len();
    let cache = DataCache::new(here.path().join("cache"), u64::MAX);
    assert!(!cache.has(&wanted.hash()));
    let lease = acquire(&cache, &wanted.hash(), &store).await.unwrap();
    let arrived = Dataset::open(lease.dir()).unwrap();
    arrived.verify_files(&|_, _| {}).unwrap();
    assert_eq!((arrived.hash(), arrived.splits.clone()), (wanted.hash(), wanted.splits.clone()));
    assert!(cache.has(&wanted.hash()));
    drop(lease);
    acquire(&cache, &wanted.hash(), &store).await.unwrap();
    // Nor does the next agent fetch it.
    acquire(&DataCache::new(here.path().join("cache"), u64::MAX), &wanted.hash(), &store).await.unwrap();
    assert_eq!((store.brought(), store.listed.load(Ordering::SeqCst)), (files, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn ranks_that_start_together_fetch_it_once() {
    let here = tempfile::tempdir().unwrap();
    let wanted = dataset(here.path(), 1);
    let mut store = Store { gate: Some(Notify::new()), ..Store::default() };
    let files = store.put(&wanted).files().len();
    let cache = DataCache::new(here.path().join("cache"), u64::MAX);
    let hash = wanted.hash();
    let waiting = Notify::new();
    let told = |words: &str| {
        if words.contains("waiting for it") {
            waiting.notify_one();
        }
    };
    let release = async {
        // One is held at the store's door, the other has seen that.
        waiting.notified().await;
        store.gate.as_ref().unwrap().notify_one();
    };
    let (first, second, ()) =
        tokio::join!(cache.acquire(&hash, &store, &told), cache.acquire(&hash, &store, &told), release);
    assert_eq!(first.unwrap().dir(), second.unwrap().dir());
    assert_eq!((store.brought(), store.listed.load(Ordering::SeqCst)), (files, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_broke_off_goes_on_with_what_is_whole() {
    let here = tempfile::tempdir().unwrap();
    let wanted = dataset(here.path(), 1);
    let mut store = Store::default();
    let all = store.put(&wanted).files().len();
    *store.left.lock().unwrap() = Some(7);
    let root = here.path().join("cache");
    let hash = wanted.hash();
    let words = acquire(&DataCache::new(&root, u64::MAX), &hash, &store).await.unwrap_err();
    assert!(words.contains("the coordinator is gone"), "{words}");
    assert_eq!(store.brought(), 7);
    let cache = DataCache::new(&root, u64::MAX);
    assert!(!cache.has(&hash), "a part does not pass for the whole");
    // What a kill leaves: a file that was being written, and one that the disk has spoilt.
    let part = root.join(format!("{hash}.part"));
    std::fs::write(part.join("files/.fetch-Xy12"), b"half").unwrap();
    let file = part.join(mtinet_data::portable::FILES).join(&store.brought.lock().unwrap()[0]);
    std::fs::write(file, b"spoilt").unwrap();
    *store.left.lock().unwrap() = None;
    let lease = acquire(&cache, &hash, &store).await.unwrap();
    Dataset::open(lease.dir()).unwrap().verify_files(&|_, _| {}).unwrap();
    assert_eq!(store.brought(), all + 1, "the spoilt one, and no other, comes again");
    assert_eq!(std::fs::read_dir(lease.dir().join("files")).unwrap().count(), all, "nothing is left over");
    assert!(!part.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_data_set_is_mended_by_the_next_agent() {
    let here = tempfile::tempdir().unwrap();
    let wanted = dataset(here.path(), 1);
    let mut store = Store::default();
    let all = store.put(&wanted).files().len();
    let root = here.path().join("cache");
    let lease = acquire(&DataCache::new(&root, u64::MAX), &wanted.hash(), &store).await.unwrap();
    let file = first_file(lease.dir());
    drop(lease);
    std::fs::write(&file, b"spoilt").unwrap();
    let lease = acquire(&DataCache::new(&root, u64::MAX), &wanted.hash(), &store).await.unwrap();
    Dataset::open(lease.dir()).unwrap().verify_files(&|_, _| {}).unwrap();
    assert_eq!(store.brought(), all + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_used_for_longest_goes_and_what_is_used_stays() {
    let here = tempfile::tempdir().unwrap();
    let sets: Vec<Dataset> = (1..=4).map(|seed| dataset(here.path(), seed)).collect();
    let mut store = Store::default();
    let sizes: Vec<u64> = sets.iter().map(|set| store.put(set).total_bytes()).collect();
    let root = here.path().join("cache");
    // Room for any two and their manifests, and for no three.
    let most = *sizes.iter().max().unwrap();
    let cache = DataCache::new(&root, 2 * most + most / 2);
    let hashes: Vec<String> = sets.iter().map(Dataset::hash).collect();
    for hash in &hashes[..2] {
        drop(acquire(&cache, hash, &store).await.unwrap());
    }
    used_at(&root, &hashes[0], 2);
    used_at(&root, &hashes[1], 1);
    let third = acquire(&cache, &hashes[2], &store).await.unwrap();
    let here_now = |cache: &DataCache| -> Vec<bool> { hashes.iter().map(|hash| cache.has(hash)).collect() };
    assert_eq!(here_now(&cache), [true, false, true, false], "the second was not used for longest");
    // The third is the oldest now, but a rank uses it, by whatever agent.
    used_at(&root, &hashes[2], 0);
    let other = DataCache::new(&root, 2 * most + most / 2);
    let fourth = acquire(&other, &hashes[3], &store).await.unwrap();
    assert_eq!(here_now(&cache), [false, false, true, true]);
    let words = acquire(&cache, &hashes[0], &store).await.unwrap_err();
    assert!(words.contains("worker.data_cache_gb"), "{words}");
    assert_eq!(here_now(&cache), [false, false, true, true], "nothing in use went");
    // Slices that trainers made count.
    drop((third, fourth));
    let lease = acquire(&cache, &hashes[3], &store).await.unwrap();
    std::fs::create_dir_all(lease.slices()).unwrap();
    std::fs::write(lease.slices().join("images"), vec![0_u8; 2 * most as usize]).unwrap();
    drop(lease);
    let lease = acquire(&cache, &hashes[3], &store).await.unwrap();
    assert_eq!(here_now(&cache), [false, false, false, true]);
    assert!(lease.slices().join("images").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_fit_is_refused_before_its_first_file() {
    let here = tempfile::tempdir().unwrap();
    let wanted = dataset(here.path(), 1);
    let mut store = Store::default();
    let bytes = store.put(&wanted).total_bytes();
    let cache = DataCache::new(here.path().join("cache"), bytes - 1);
    let words = acquire(&cache, &wanted.hash(), &store).await.unwrap_err();
    assert!(words.contains("worker.data_cache_gb"), "{words}");
    assert_eq!(store.brought(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_sets_that_share_files_share_them_on_the_disk() {
    let here = tempfile::tempdir().unwrap();
    let first = dataset(here.path(), 1);
    let mut second = dataset(here.path(), 1 << 20);
    second.cases.clone_from(&first.cases);
    second.dir.clone_from(&first.dir);
    let stratified = folds::stratified(&second.cases, &second.header.classes, 5, 9).unwrap();
    second.splits = stratified;
    assert_ne!(first.hash(), second.hash());
    let mut store = Store::default();
    let portable = store.put(&first);
    store.put(&second);
    let cache = DataCache::new(here.path().join("cache"), portable.total_bytes() * 3 / 2);
    let one = acquire(&cache, &first.hash(), &store).await.unwrap();
    let two = acquire(&cache, &second.hash(), &store).await.unwrap();
    assert_eq!(store.brought(), portable.files().len(), "each file comes once");
    assert_ne!(one.dir(), two.dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outside_of_the_cache_is_touched() {
    let here = tempfile::tempdir().unwrap();
    let wanted = dataset(here.path(), 1);
    let mut store = Store::default();
    let portable = store.put(&wanted);
    let cache = DataCache::new(here.path().join("cache"), u64::MAX);
    for hash in ["../x", "", "/etc", "A", &*"a".repeat(63)] {
        let words = acquire(&cache, hash, &store).await.unwrap_err();
        assert!(words.contains("no hash"), "{words}");
    }
    let list = String::from_utf8(portable.to_json().unwrap()).unwrap();
    let file = portable.files().keys().next().unwrap();
    let hostile = list.replacen(&format!("\"files/{file}\""), "\"../../../x\"", 1);
    assert_ne!(hostile, list);
    store.lists.insert(wanted.hash(), hostile.into_bytes());
    let words = acquire(&cache, &wanted.hash(), &store).await.unwrap_err();
    assert!(words.contains("not where its file lies"), "{words}");
    assert_eq!(store.brought(), 0);
    let words = acquire(&cache, &"b".repeat(64), &store).await.unwrap_err();
    assert!(words.contains("nobody has it"), "{words}");
}
