//! A small disk: a tmpfs in a mount namespace that no other process sees and that ends with the test.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// Set in the program that runs in the namespace.
const INSIDE: &str = "IP2P_TEST_NAMESPACE";
const FILLER: &str = "filler";

/// Where a program finds itself.
pub enum Entered {
    /// In the namespace: it can mount.
    Inside,
    /// Outside; the same program has run inside, and ended so.
    Done(ExitStatus),
    /// Neither root nor a user may mount here.
    NotPermitted,
}

/// Runs this program again with `arguments` in a namespace of its own, unless this is it.
pub fn enter<A: AsRef<std::ffi::OsStr>>(arguments: &[A]) -> Entered {
    if std::env::var_os(INSIDE).is_some() {
        return Entered::Inside;
    }
    // Users may mount where they are root of a namespace; where that is switched off, root may.
    for flags in [&["--user", "--map-root-user", "--mount"][..], &["--mount"]] {
        let unshare = || {
            let mut unshare = Command::new("unshare");
            unshare.args(flags).arg("--");
            unshare
        };
        let mount = unshare().args(["mount", "-t", "tmpfs", "tmpfs", "/tmp"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if mount.is_ok_and(|status| status.success()) {
            let program = std::env::current_exe().expect("this program");
            let status = unshare().arg(program).args(arguments).env(INSIDE, "1").status();
            return Entered::Done(status.expect("unshare runs"));
        }
    }
    Entered::NotPermitted
}

/// A test in a namespace of its own: `test` is its name. False outside, where there is nothing left to do.
///
/// # Panics
///
/// When it failed inside.
pub fn enter_test(test: &str) -> bool {
    match enter(&["--exact", test, "--nocapture"]) {
        Entered::Inside => true,
        Entered::Done(status) => {
            assert!(status.success(), "{test} failed in its namespace, see above");
            false
        }
        Entered::NotPermitted => {
            eprintln!("{test} is skipped: nothing can be mounted here, neither as root nor in a user's namespace (`unshare -Urm`)");
            false
        }
    }
}

/// A tmpfs.
pub struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Mounts one of `bytes` at `folder`, which is made.
    pub fn mount(folder: &Path, bytes: u64) -> Self {
        std::fs::create_dir_all(folder).expect("a folder to mount at");
        call("mount", &["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"], folder);
        Disk { folder: folder.to_path_buf() }
    }

    pub fn resize(&self, bytes: u64) {
        call("mount", &["-o", &format!("remount,size={bytes}")], &self.folder);
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        use std::io::Write;
        let mut filler = std::fs::File::create(self.folder.join(FILLER)).expect("a file on the disk");
        while filler.write_all(&[0; 4096]).is_ok() {}
    }

    /// Gives it back.
    pub fn free(&self) {
        std::fs::remove_file(self.folder.join(FILLER)).expect("a file on the disk");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Its folder can be removed only then.
        call("umount", &["--lazy"], &self.folder);
    }
}

fn call(program: &str, arguments: &[&str], folder: &Path) {
    let output = Command::new(program).args(arguments).arg(folder).output().expect("mount and umount run");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
