//! Runs every reader of `ip2p_tests::fuzz` on its corpus and on mutations of it: none may panic, use memory out of
//! proportion, or take long. `IP2P_FUZZ_INPUTS=N` (per target), `IP2P_FUZZ_SEED=S` and `IP2P_FUZZ_TARGET=name` run more,
//! `IP2P_FUZZ_VERBOSE=1` shows the panics that readers catch.
#![allow(unsafe_code)]

use ip2p_tests::fuzz::mutate::{Rng, mutate};
use ip2p_tests::fuzz::{TARGETS, Target, corpus, overwrite, seeds};
use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Counts what is allocated; what zstd takes by itself (a window of at most 128 MiB) does not pass here.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn add(bytes: usize) {
    let held = HELD.fetch_add(bytes, Ordering::Relaxed).wrapping_add(bytes);
    PEAK.fetch_max(held, Ordering::Relaxed);
}

// SAFETY: everything is done by the system's allocator; the counters are atomic.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size);
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Longest time for one input; a machine that does much else is slow, and a reader that hangs is endless.
const PATIENCE: Duration = Duration::from_secs(120);
/// Files of the corpora, all together.
const MAX_CORPUS: usize = 300_000;

/// The input at hand began at this many milliseconds; 0 between inputs.
static BEGAN: AtomicU64 = AtomicU64::new(0);
/// The panic at hand, in words.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

fn number(variable: &str) -> Option<u64> {
    Some(std::env::var(variable).ok()?.parse().expect("a number"))
}

/// Where the input at hand lies, also when the process dies of it.
fn place(target: &Target, what: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    std::fs::create_dir_all(&folder).expect("a folder for inputs");
    folder.join(format!("{}-{what}", target.name))
}

/// What is wrong with how the target takes this input, if anything.
fn try_one(target: &Target, data: &[u8], started: Instant) -> Result<(), String> {
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    BEGAN.store(started.elapsed().as_millis() as u64 + 1, Ordering::Relaxed);
    let began = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(data)));
    let took = began.elapsed();
    BEGAN.store(0, Ordering::Relaxed);
    let memory = PEAK.load(Ordering::Relaxed).saturating_sub(before);
    let most = target.memory + 64 * data.len();
    match result {
        Err(_) => Err(format!("it panics: {}", LAST_PANIC.lock().unwrap())),
        Ok(()) if memory > most => Err(format!("it takes {memory} bytes of memory for {}, {most} are allowed", data.len())),
        Ok(()) if took > PATIENCE => Err(format!("it takes {took:?}")),
        Ok(()) => Ok(()),
    }
}

fn run(target: &Target, seed: u64, inputs: u64, started: Instant) {
    let files = corpus(target.name);
    assert!(!files.is_empty(), "{}: no file to start from in tests/fuzz", target.name);
    for (path, data) in &files {
        if let Err(problem) = try_one(target, data, started) {
            panic!("{}: {}: {problem}", target.name, path.display());
        }
    }
    // Those that unpack to megabytes take too long to be a start.
    let once = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("once-"));
    let files: Vec<Vec<u8>> = files.into_iter().filter(|(path, _)| !once(path)).map(|(_, data)| data).collect();
    let current = place(target, "current");
    for n in 0..inputs {
        let data = mutate(&mut Rng::new(seed, n), &files);
        // A process that dies of it (a stack, a terabyte) leaves it there.
        overwrite(&current, &data);
        if let Err(problem) = try_one(target, &data, started) {
            let kept = place(target, &format!("{seed}-{n}"));
            std::fs::write(&kept, &data).expect("a copy of the input");
            panic!("{}: input {n} of seed {seed}: {problem}\nit is kept as {}", target.name, kept.display());
        }
    }
}

#[test]
fn no_bytes_make_a_reader_panic_or_take_all_memory() {
    let root = ip2p_tests::repository().join("tests/fuzz");
    if std::env::var_os("IP2P_BLESS").is_some() {
        seeds::write(&root);
    }
    let started = Instant::now();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let (began, now) = (BEGAN.load(Ordering::Relaxed), started.elapsed().as_millis() as u64);
            if began > 0 && now > began + 2 * PATIENCE.as_millis() as u64 {
                eprintln!("an input takes longer than {:?}: see the newest file in {}/fuzz", 3 * PATIENCE, env!("CARGO_TARGET_TMPDIR"));
                std::process::abort();
            }
        }
    });
    // Panics that a reader catches are none of ours; those that it does not are told by the test. One inside of another
    // ends the process at once: then all are wanted.
    let verbose = std::env::var_os("IP2P_FUZZ_VERBOSE").is_some();
    std::panic::set_hook(Box::new(move |info| {
        if verbose || BEGAN.load(Ordering::Relaxed) == 0 {
            eprintln!("{info}");
        }
        *LAST_PANIC.lock().unwrap() = info.to_string();
    }));
    let only = std::env::var("IP2P_FUZZ_TARGET").ok();
    let seed = number("IP2P_FUZZ_SEED").unwrap_or(1);
    let mut bytes = 0;
    for target in TARGETS.iter().filter(|target| only.as_deref().is_none_or(|name| name == target.name)) {
        let began = Instant::now();
        let inputs = number("IP2P_FUZZ_INPUTS").unwrap_or(target.inputs);
        run(target, seed, inputs, started);
        bytes += corpus(target.name).iter().map(|(_, data)| data.len()).sum::<usize>();
        println!("{}: {inputs} inputs of seed {seed} in {:.1} s", target.name, began.elapsed().as_secs_f64());
    }
    assert!(bytes < MAX_CORPUS, "the corpora have {bytes} bytes");
}
