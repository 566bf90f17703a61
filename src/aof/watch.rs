//! Waiting until something may have happened to the files of a log.
//!
//! On Linux the kernel tells (inotify). It does not know what other machines do to a network file
//! system, and nothing at all where its watches are used up; so whoever waits looks at the files
//! after every [`Watch::wait`], whatever it said, and passes a limit of some 50 ms if changes on
//! such a file system must be seen soon.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest sleep where the kernel tells nothing.
const POLL: Duration = Duration::from_millis(50);

/// Waits for changes in one directory: files in it that grow, come, go or are renamed.
///
/// A directory that does not exist yet is waited for. One that is replaced by another of its name is
/// noticed at once; if one above it is replaced, or a link on the way, when a limit is over.
#[derive(Debug)]
pub struct Watch {
    dir: Option<PathBuf>,
    #[cfg(target_os = "linux")]
    inotify: Option<notify::Inotify>,
}

impl Default for Watch {
    fn default() -> Self {
        Watch::new()
    }
}

impl Watch {
    /// Watches nothing yet.
    pub fn new() -> Watch {
        Watch {
            dir: None,
            #[cfg(target_os = "linux")]
            inotify: notify::Inotify::new(),
        }
    }

    /// Watches this directory, or the nearest one above it that exists, and no other. What happens
    /// from now on ends the next wait. To name the same directory again costs nothing.
    pub fn follow(&mut self, dir: &Path) {
        // The directory of a path that is a name alone.
        let dir = if dir.as_os_str().is_empty() {
            Path::new(".")
        } else {
            dir
        };
        if self.dir.as_deref() == Some(dir) {
            return;
        }
        self.dir = Some(dir.to_owned());
        #[cfg(target_os = "linux")]
        if let Some(inotify) = &mut self.inotify {
            inotify.forget();
            inotify.aim(dir);
        }
    }

    /// Returns when something happened since the last wait, when `limit` is over, or when a signal
    /// came; says whether something happened as far as can be known. Without the kernel's help it
    /// sleeps for `limit` or 50 ms, whichever is shorter. It never returns late because of many
    /// events, and a caller that reads what there is between two waits is never kept from sleeping
    /// by events of files that are at rest.
    pub fn wait(&mut self, limit: Duration) -> bool {
        #[cfg(target_os = "linux")]
        if let (Some(inotify), Some(dir)) = (&mut self.inotify, &self.dir)
            && let Some(woken) = inotify.wait(dir, limit)
        {
            return woken;
        }
        std::thread::sleep(limit.min(POLL));
        false
    }

    /// Whether a file came into the directory by a rename that gave it this name, which ends in `.incr.aof`. Servers
    /// create such a file under its name, except where their log was off before. `false` also where nothing is known.
    pub fn was_renamed_to(&mut self, name: &OsStr) -> bool {
        #[cfg(target_os = "linux")]
        if let Some(inotify) = &mut self.inotify {
            return inotify.was_renamed_to(name);
        }
        let _ = name;
        false
    }
}

#[cfg(target_os = "linux")]
mod notify {
    use std::ffi::OsStr;
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
    use rustix::io::Errno;

    /// Bytes of events that one wait reads at most in one go, and how often. More of them end the
    /// next wait.
    const EVENTS: usize = 16 << 10;
    const READS: usize = 64;

    /// Attempts to find the deepest directory while someone creates or removes some.
    const ATTEMPTS: usize = 16;

    #[derive(Debug)]
    pub(super) struct Inotify {
        fd: OwnedFd,
        at: Option<At>,
        /// Names ending in [`PART`] that came by a rename, the last ones.
        renamed: Vec<Vec<u8>>,
    }

    const PART: &[u8] = b".incr.aof";

    /// So many of them are remembered: the next one is asked for soon.
    const RENAMED: usize = 64;

    /// The watch that is set.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct At {
        wd: i32,
        /// It is the directory itself and not one above it.
        there: bool,
    }

    impl Inotify {
        /// None where the system has none to give.
        pub(super) fn new() -> Option<Inotify> {
            let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
            Some(Inotify {
                fd,
                at: None,
                renamed: Vec::new(),
            })
        }

        /// Ends the watch that is set.
        pub(super) fn forget(&mut self) {
            if let Some(At { wd, .. }) = self.at.take() {
                // It ended by itself where its directory was removed.
                let _ = inotify::remove_watch(&self.fd, wd);
            }
        }

        /// Watches `dir`, or the nearest directory above it. Without success nothing is watched.
        pub(super) fn aim(&mut self, dir: &Path) {
            for _ in 0..ATTEMPTS {
                match self.set(dir, true) {
                    Ok(()) => return,
                    Err(Errno::NOENT | Errno::NOTDIR) => {}
                    Err(_) => return self.forget(),
                }
                let mut missing = dir;
                let found = loop {
                    let Some(above) = missing.parent() else {
                        return self.forget();
                    };
                    let named = if above.as_os_str().is_empty() {
                        Path::new(".")
                    } else {
                        above
                    };
                    match self.set(named, false) {
                        Ok(()) => break true,
                        Err(Errno::NOENT | Errno::NOTDIR) => missing = above,
                        Err(_) => break false,
                    }
                };
                if !found {
                    return self.forget();
                }
                // What was created before the watch was set has told nobody.
                if !missing.exists() {
                    return;
                }
            }
        }

        fn set(&mut self, path: &Path, there: bool) -> Result<(), Errno> {
            let own = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
            let names = WatchFlags::CREATE | WatchFlags::MOVED_TO | own;
            // Above the directory, files that grow are none of ours.
            let flags = if there {
                names | WatchFlags::MODIFY | WatchFlags::MOVED_FROM | WatchFlags::DELETE
            } else {
                names
            };
            let wd = inotify::add_watch(&self.fd, path, flags)?;
            // A directory that is watched already keeps its number.
            if self.at.is_some_and(|at| at.wd != wd) {
                self.forget();
            }
            self.at = Some(At { wd, there });
            Ok(())
        }

        /// None where nothing can be watched.
        pub(super) fn wait(&mut self, dir: &Path, limit: Duration) -> Option<bool> {
            if self.at.is_none() {
                self.aim(dir);
                // What happened in between is not known; the caller looks after this.
                return self.at.map(|_| true);
            }
            let timeout = Timespec::try_from(limit).ok();
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            match poll(&mut fds, timeout.as_ref()) {
                Err(Errno::INTR) => return Some(false),
                Ok(0) => {
                    // Who names a directory above anew tells only those who watch there. To set the
                    // watch that is set changes nothing.
                    let before = self.at;
                    self.aim(dir);
                    return Some(self.at != before);
                }
                Ok(_) => {}
                Err(_) => return None,
            }
            let lost = self.drain();
            if lost {
                self.forget();
            }
            // Something came into the directory above: a step nearer, perhaps.
            if self.at.is_none_or(|at| !at.there) {
                self.aim(dir);
            }
            Some(true)
        }

        pub(super) fn was_renamed_to(&mut self, name: &OsStr) -> bool {
            if self.drain() {
                self.forget();
            }
            self.renamed.iter().any(|one| one == name.as_bytes())
        }

        /// Takes the events that came; whether the watched directory is gone.
        fn drain(&mut self) -> bool {
            let mut buffer = [MaybeUninit::uninit(); EVENTS];
            let mut reader = Reader::new(&self.fd, &mut buffer);
            let gone = ReadFlags::DELETE_SELF
                | ReadFlags::MOVE_SELF
                | ReadFlags::IGNORED
                | ReadFlags::UNMOUNT;
            let (mut lost, mut reads) = (false, 0);
            loop {
                if reader.is_buffer_empty() {
                    reads += 1;
                    if reads > READS {
                        return lost;
                    }
                }
                match reader.next() {
                    Ok(event) => {
                        let ours = self.at.is_some_and(|at| at.wd == event.wd());
                        if let Some(name) = event.file_name()
                            && event.events().contains(ReadFlags::MOVED_TO)
                            && name.to_bytes().ends_with(PART)
                        {
                            if self.renamed.len() == RENAMED {
                                self.renamed.remove(0);
                            }
                            self.renamed.push(name.to_bytes().to_vec());
                        }
                        lost |= ours && event.events().intersects(gone);
                        // Some were dropped, perhaps one that mattered.
                        lost |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                    }
                    Err(_) => return lost,
                }
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(5);

    /// Longest time until a wait ends. A machine that is busy needs more than the kernel does.
    const SOON: Duration = Duration::from_millis(50);

    /// Does `act` while a watch waits; the time from the act to the end of the wait.
    fn delay(watch: &mut Watch, act: impl FnOnce() + Send) -> Duration {
        std::thread::scope(|scope| {
            let actor = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(30));
                let start = Instant::now();
                act();
                start
            });
            assert!(watch.wait(LONG), "nothing was noticed");
            let end = Instant::now();
            end.saturating_duration_since(actor.join().expect("the actor"))
        })
    }

    /// Waits until nothing more comes.
    fn settle(watch: &mut Watch) {
        while watch.wait(Duration::from_millis(20)) {}
    }

    #[test]
    fn an_append_wakes() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        fs::write(&path, "a").expect("a file");
        let mut watch = Watch::new();
        watch.follow(dir.path());
        settle(&mut watch);
        let took = delay(&mut watch, || {
            let mut file = OpenOptions::new().append(true).open(&path).expect("it");
            file.write_all(b"b").expect("a byte");
        });
        assert!(took < SOON, "{took:?}");
    }

    #[test]
    fn an_append_between_two_waits_wakes_the_second() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut watch = Watch::new();
        watch.follow(dir.path());
        fs::write(dir.path().join("log"), "a").expect("a file");
        assert!(watch.wait(LONG));
        settle(&mut watch);
        watch.follow(dir.path());
        assert!(!watch.wait(Duration::ZERO), "events were not drained");
    }

    #[test]
    fn a_rename_into_the_directory_wakes() {
        let root = tempfile::tempdir().expect("a directory");
        let (dir, from) = (root.path().join("aof"), root.path().join("new"));
        fs::create_dir(&dir).expect("a directory");
        fs::write(&from, "a").expect("a file");
        let mut watch = Watch::new();
        watch.follow(&dir);
        let took = delay(&mut watch, || {
            fs::rename(&from, dir.join("new")).expect("a rename");
        });
        assert!(took < SOON, "{took:?}");
    }

    #[test]
    fn a_directory_that_appears_later_is_noticed_and_then_watched() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("a/b/aof");
        let mut watch = Watch::new();
        watch.follow(&dir);
        // Files beside it that grow are none of ours.
        fs::write(root.path().join("other"), "a").expect("a file");
        settle(&mut watch);
        fs::write(root.path().join("other"), "ab").expect("a file");
        assert!(!watch.wait(Duration::from_millis(20)));
        let took = delay(&mut watch, || {
            fs::create_dir_all(&dir).expect("directories");
        });
        assert!(took < SOON, "{took:?}");
        settle(&mut watch);
        let took = delay(&mut watch, || {
            fs::write(dir.join("log"), "a").expect("a file");
        });
        assert!(took < SOON, "{took:?}");
    }

    #[test]
    fn a_directory_that_is_replaced_is_watched_again() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("aof");
        fs::create_dir(&dir).expect("a directory");
        let mut watch = Watch::new();
        watch.follow(&dir);
        fs::rename(&dir, root.path().join("old")).expect("a rename");
        fs::create_dir(&dir).expect("a directory");
        assert!(watch.wait(LONG));
        settle(&mut watch);
        fs::write(root.path().join("old/log"), "a").expect("a file");
        assert!(!watch.wait(Duration::from_millis(20)), "the old one");
        fs::write(dir.join("log"), "a").expect("a file");
        assert!(watch.wait(LONG));
        // Removed and created anew.
        settle(&mut watch);
        fs::remove_dir_all(&dir).expect("its end");
        assert!(watch.wait(LONG));
        settle(&mut watch);
        fs::create_dir(&dir).expect("a directory");
        assert!(watch.wait(LONG));
        settle(&mut watch);
        fs::write(dir.join("log"), "a").expect("a file");
        assert!(watch.wait(LONG));
    }

    #[test]
    fn a_directory_above_that_is_replaced_is_noticed_when_the_limit_is_over() {
        let root = tempfile::tempdir().expect("a directory");
        let (above, old) = (root.path().join("above"), root.path().join("old"));
        let dir = above.join("aof");
        fs::create_dir_all(&dir).expect("directories");
        let mut watch = Watch::new();
        watch.follow(&dir);
        settle(&mut watch);
        fs::rename(&above, &old).expect("a rename");
        fs::create_dir_all(&dir).expect("directories");
        assert!(watch.wait(Duration::from_millis(20)));
        settle(&mut watch);
        fs::write(old.join("aof/log"), "a").expect("a file");
        assert!(!watch.wait(Duration::from_millis(20)), "the old one");
        fs::write(dir.join("log"), "a").expect("a file");
        assert!(watch.wait(LONG));
    }

    #[test]
    fn another_directory_can_be_followed() {
        let (one, two) = (
            tempfile::tempdir().expect("a directory"),
            tempfile::tempdir().expect("a directory"),
        );
        let mut watch = Watch::new();
        watch.follow(one.path());
        watch.follow(two.path());
        settle(&mut watch);
        fs::write(one.path().join("log"), "a").expect("a file");
        assert!(!watch.wait(Duration::from_millis(20)));
        fs::write(two.path().join("log"), "a").expect("a file");
        assert!(watch.wait(LONG));
    }

    #[test]
    fn a_storm_of_events_ends_and_keeps_nobody() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut watch = Watch::new();
        watch.follow(dir.path());
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                use std::sync::atomic::Ordering::Relaxed;
                for i in 0.. {
                    if stop.load(Relaxed) {
                        break;
                    }
                    let _ = fs::write(dir.path().join(format!("{}", i % 2)), "a");
                }
            });
            for _ in 0..20 {
                assert!(watch.wait(LONG));
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        settle(&mut watch);
        assert!(!watch.wait(Duration::ZERO));
    }

    #[test]
    fn without_a_directory_it_sleeps_and_polls() {
        let mut watch = Watch::new();
        let start = Instant::now();
        assert!(!watch.wait(LONG));
        assert!(start.elapsed() >= POLL && start.elapsed() < LONG);
        let start = Instant::now();
        assert!(!watch.wait(Duration::from_millis(1)));
        assert!(start.elapsed() < POLL);
        // Without inotify.
        let dir = tempfile::tempdir().expect("a directory");
        watch.inotify = None;
        watch.follow(dir.path());
        fs::write(dir.path().join("log"), "a").expect("a file");
        let start = Instant::now();
        assert!(!watch.wait(LONG));
        assert!(start.elapsed() < LONG);
    }

    #[test]
    fn the_limit_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut watch = Watch::new();
        watch.follow(dir.path());
        let start = Instant::now();
        assert!(!watch.wait(Duration::from_millis(120)));
        assert!(start.elapsed() >= Duration::from_millis(100));
    }
}
