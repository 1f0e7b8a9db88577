//! Defects that can be planted where a guarantee hangs on one line, to show that the simulation finds them, and chaos some.
//!
//! Without the feature `planted`, which only the tests enable, nothing of this is compiled in: [`has`] is `false`.

/// One mutation of the code. Each is the kind of slip that a review overlooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Defect {
    /// `AlreadyExists` is taken for our own commit without reading back.
    ReadBackOff,
    /// A manifest is committed although the write of its data failed.
    WriteErrorIgnored,
    /// Data objects of all attempts at a partition have the same names.
    KeysWithoutEpoch,
    /// After another attempt's chunk won, our own is put into the partition's manifest.
    OwnChunkDespiteTheirs,
    /// A worker that is asked to leave commits the partition as it is.
    PartialPartition,
    /// A failed commit of the partition is reported as a success.
    SuccessWithoutManifest,
    /// Epochs start again with every coordinator.
    EpochWithoutTerm,
    /// Two coordinators may have the same term.
    SharedTerm,
    /// A partition that failed waits for ever.
    RetryNeverComes,
    /// A commit that is reported twice is counted twice.
    CommitCountedTwice,
    /// `index` starts before all of `filter` is committed.
    IndexTooEarly,
    /// A chunk may start where no chunk has ended.
    ChainWithGap,
    /// A manifest is committed while its data is still on the way.
    ManifestBeforeData,
    /// A store that says `AlreadyExists` is believed, although there is no such object.
    ConflictTakenForCommit,
    /// A worker goes on although it was told that its lease is lost.
    FencingOff,
}

impl Defect {
    pub const ALL: [Defect; 15] = [
        Defect::ReadBackOff,
        Defect::WriteErrorIgnored,
        Defect::KeysWithoutEpoch,
        Defect::OwnChunkDespiteTheirs,
        Defect::PartialPartition,
        Defect::SuccessWithoutManifest,
        Defect::EpochWithoutTerm,
        Defect::SharedTerm,
        Defect::RetryNeverComes,
        Defect::CommitCountedTwice,
        Defect::IndexTooEarly,
        Defect::ChainWithGap,
        Defect::ManifestBeforeData,
        Defect::ConflictTakenForCommit,
        Defect::FencingOff,
    ];
}

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Defect>> = const { std::cell::Cell::new(None) };
}

/// Plants a defect on this thread until the next call; `None` removes it.
#[cfg(feature = "planted")]
pub fn plant(defect: Option<Defect>) {
    PLANTED.set(defect);
}

#[cfg(feature = "planted")]
static EVERYWHERE: std::sync::OnceLock<Defect> = std::sync::OnceLock::new();

/// Plants a defect on every thread of this process, as long as it lives.
#[cfg(feature = "planted")]
pub fn plant_everywhere(defect: Defect) {
    // A second one would have to be found beside the first.
    let _ = EVERYWHERE.set(defect);
}

/// True when `defect` is planted on this thread.
#[cfg(feature = "planted")]
pub fn has(defect: Defect) -> bool {
    PLANTED.get() == Some(defect) || EVERYWHERE.get() == Some(&defect)
}

/// False: this program was built without defects.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn has(_: Defect) -> bool {
    false
}
