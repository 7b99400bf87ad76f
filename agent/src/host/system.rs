//! The real machine.

use std::{
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{Attributes, Feed, Host, HostError, Kind, Output, Program, Stamp, Stat, process};

/// This machine, or for files a tree of it that plays the root.
#[derive(Debug, Clone)]
pub struct SystemHost {
    root: PathBuf,
}

impl SystemHost {
    /// The machine itself.
    #[must_use]
    pub fn new() -> Self {
        Self::at("/")
    }

    /// File paths are taken below `root`; programs are those of the machine.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The real place of an absolute path.
    fn place(&self, path: &str) -> Result<PathBuf, HostError> {
        let relative = path.strip_prefix('/').unwrap_or("..");
        if relative.split('/').any(|part| part == "..") || path.contains('\0') {
            return Err(HostError::Path { path: path.to_owned() });
        }
        Ok(self.root.join(relative))
    }

    /// A mount point at or below `place`, if there is one.
    fn mount_under(place: &Path) -> io::Result<Option<String>> {
        let mounts = fs_err::read_to_string("/proc/self/mountinfo")?;
        let found = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .find(|mount| Path::new(&mount.replace("\\040", " ")).starts_with(place));
        Ok(found.map(str::to_owned))
    }
}

impl Default for SystemHost {
    fn default() -> Self {
        Self::new()
    }
}

fn failed<'a>(action: &'static str, path: &'a str) -> impl Fn(io::Error) -> HostError + 'a {
    move |source| HostError::File { action, path: path.to_owned(), source }
}

/// `None` in place of "nothing is there".
fn unless_missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Make the names in a directory survive a power cut.
fn sync_directory(directory: &Path) -> io::Result<()> {
    match fs_err::File::open(directory)?.sync_all() {
        // The kernel's own file systems (control groups) have no disk to sync to.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

fn sync_parent(place: &Path) -> io::Result<()> {
    sync_directory(place.parent().unwrap_or(Path::new("/")))
}

/// Where the new content of `place` is made before it takes the name: always the same, so that what a power cut left
/// there is found again by the next writer, and by undo.
fn scratch_of(place: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".kdc-");
    name.push(place.file_name().unwrap_or_default());
    place.with_file_name(name)
}

/// The scratch of `place`, with nothing there; removed again unless it takes the name.
fn free_scratch(place: &Path) -> io::Result<tempfile::TempPath> {
    let path = scratch_of(place);
    unless_missing(fs_err::remove_file(&path))?;
    tempfile::TempPath::try_from_path(path)
}

/// A temporary file beside `place`, complete, with its attributes, on disk.
fn write_beside(
    place: &Path,
    content: &mut dyn Read,
    attributes: Attributes,
) -> io::Result<tempfile::TempPath> {
    let path = free_scratch(place)?;
    let mut options = fs_err::OpenOptions::new();
    fs_err::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.write(true).create_new(true).open(&path)?;
    io::copy(content, &mut file)?;
    chown(&path, Some(attributes.uid), Some(attributes.gid))?;
    file.set_permissions(std::fs::Permissions::from_mode(attributes.mode))?;
    file.sync_all()?;
    Ok(path)
}

impl Host for SystemHost {
    fn stat(&self, path: &str) -> Result<Option<Stat>, HostError> {
        let found = unless_missing(fs_err::symlink_metadata(self.place(path)?));
        let Some(metadata) = found.map_err(failed("look at", path))? else { return Ok(None) };
        let file_type = metadata.file_type();
        let kind = match () {
            () if file_type.is_file() => Kind::File,
            () if file_type.is_dir() => Kind::Directory,
            () if file_type.is_symlink() => Kind::Link,
            () => Kind::Other,
        };
        let (mode, uid, gid) = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
        Ok(Some(Stat { kind, attributes: Attributes { mode, uid, gid }, size: metadata.len() }))
    }

    fn stamp(&self, path: &str) -> Result<Option<Stamp>, HostError> {
        let found = unless_missing(fs_err::symlink_metadata(self.place(path)?));
        let found = found.map_err(failed("look at", path))?;
        Ok(found.map(|data| Stamp {
            size: data.len(),
            inode: data.ino(),
            changed_ns: data
                .ctime()
                .saturating_mul(1_000_000_000)
                .saturating_add(data.ctime_nsec()),
        }))
    }

    fn open(&self, path: &str) -> Result<Option<Box<dyn Read + '_>>, HostError> {
        let file = unless_missing(fs_err::File::open(self.place(path)?));
        Ok(file.map_err(failed("open", path))?.map(|file| Box::new(file) as Box<dyn Read>))
    }

    fn read_link(&self, path: &str) -> Result<String, HostError> {
        let target = fs_err::read_link(self.place(path)?).map_err(failed("read link", path))?;
        Ok(target.to_string_lossy().into_owned())
    }

    fn list(&self, path: &str) -> Result<Option<Vec<String>>, HostError> {
        let entries = unless_missing(fs_err::read_dir(self.place(path)?));
        let Some(entries) = entries.map_err(failed("list", path))? else { return Ok(None) };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed("list", path))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(Some(names))
    }

    fn write_from(
        &self,
        path: &str,
        content: &mut dyn Read,
        attributes: Attributes,
    ) -> Result<(), HostError> {
        let place = self.place(path)?;
        let mut write = || {
            write_beside(&place, content, attributes)?.persist(&place)?;
            sync_parent(&place)
        };
        write().map_err(failed("write", path))
    }

    fn set_kernel_value(&self, path: &str, value: &str) -> Result<(), HostError> {
        let place = self.place(path)?;
        let write = || {
            let mut file = fs_err::OpenOptions::new().write(true).open(&place)?;
            file.write_all(value.as_bytes())
        };
        write().map_err(failed("set", path))
    }

    fn make_directory(&self, path: &str, attributes: Attributes) -> Result<(), HostError> {
        let place = self.place(path)?;
        let make = || {
            match fs_err::create_dir(&place) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && place.is_dir() => {}
                result => result?,
            }
            sync_parent(&place)
        };
        make().map_err(failed("make directory", path))?;
        self.set_attributes(path, attributes)
    }

    fn make_link(&self, path: &str, target: &str) -> Result<(), HostError> {
        let place = self.place(path)?;
        let directory = place.parent().unwrap_or(Path::new("/"));
        let make = || {
            let beside = free_scratch(&place)?;
            std::os::unix::fs::symlink(target, &beside)?;
            beside.persist(&place)?;
            sync_directory(directory)
        };
        make().map_err(failed("make link", path))
    }

    fn set_attributes(&self, path: &str, attributes: Attributes) -> Result<(), HostError> {
        let place = self.place(path)?;
        let set = || {
            lchown(&place, Some(attributes.uid), Some(attributes.gid))?;
            let permissions = std::fs::Permissions::from_mode(attributes.mode);
            fs_err::set_permissions(&place, permissions)?;
            fs_err::File::open(&place)?.sync_all()
        };
        set().map_err(failed("set owner and mode of", path))
    }

    fn remove_scratch(&self, path: &str) -> Result<(), HostError> {
        let place = self.place(path)?;
        let removed = unless_missing(fs_err::remove_file(scratch_of(&place)));
        match removed.map_err(failed("remove what was half written of", path))? {
            Some(()) => sync_parent(&place).map_err(failed("remove", path)),
            None => Ok(()),
        }
    }

    fn remove(&self, path: &str) -> Result<(), HostError> {
        let place = self.place(path)?;
        match unless_missing(fs_err::remove_file(&place)).map_err(failed("remove", path))? {
            Some(()) => sync_parent(&place).map_err(failed("remove", path)),
            None => Ok(()),
        }
    }

    fn remove_directory(&self, path: &str) -> Result<bool, HostError> {
        let place = self.place(path)?;
        match unless_missing(fs_err::remove_dir(&place)) {
            Ok(None) => Ok(true),
            Ok(Some(())) => {
                sync_parent(&place).map_err(failed("remove", path))?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
            Err(error) => Err(failed("remove", path)(error)),
        }
    }

    fn remove_tree(&self, path: &str) -> Result<(), HostError> {
        let place = self.place(path)?;
        let mount = Self::mount_under(&place).map_err(failed("remove", path))?;
        if let Some(mount) = mount {
            return Err(HostError::Mounted { path: path.to_owned(), mount });
        }
        let Some(stat) = self.stat(path)? else { return Ok(()) };
        if stat.kind != Kind::Directory {
            return self.remove(path);
        }
        unless_missing(fs_err::remove_dir_all(&place)).map_err(failed("remove", path))?;
        sync_parent(&place).map_err(failed("remove", path))
    }

    fn stream(
        &self,
        program: &Program,
        feed: Feed<'_>,
        line: &mut dyn FnMut(&str),
    ) -> Result<Output, HostError> {
        process::stream(program, feed, line)
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }

    fn now_unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shell(script: &str) -> Program {
        Program::new("sh").args(["-c", script])
    }

    fn own(mode: u32) -> Attributes {
        Attributes {
            mode,
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
        }
    }

    #[test]
    fn paths_that_are_relative_or_climb_are_refused() {
        let host = SystemHost::at("/nowhere");
        for path in ["etc", "", "/a/../b", "/..", "/a\0b"] {
            let error = host.stat(path).unwrap_err();
            assert!(matches!(error, HostError::Path { .. }), "{path:?}: {error}");
        }
    }

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_leaves_no_scratch() {
        let root = tempfile::tempdir().unwrap();
        let host = SystemHost::at(root.path());
        host.write("/a", b"old", own(0o644)).unwrap();
        let mut broken = b"new"[..].chain(FailingReader);
        assert!(host.write_from("/a", &mut broken, own(0o600)).is_err());
        assert_eq!(host.read("/a", 10).unwrap().unwrap(), b"old");
        host.write("/a", b"new", own(0o600)).unwrap();
        let stat = host.stat("/a").unwrap().unwrap();
        assert_eq!((stat.kind, stat.attributes.mode, stat.size), (Kind::File, 0o600, 3));
        assert_eq!(host.list("/").unwrap().unwrap(), ["a"]);
        assert!(matches!(host.read("/a", 2), Err(HostError::TooLarge { limit: 2, .. })));
    }

    #[test]
    fn what_a_power_cut_left_beside_a_file_goes_with_the_next_write_or_by_itself() {
        let root = tempfile::tempdir().unwrap();
        let host = SystemHost::at(root.path());
        let half_written = || {
            let mut never_dropped =
                write_beside(&root.path().join("a"), &mut &b"ha"[..], own(0o644));
            never_dropped.as_mut().unwrap().disable_cleanup(true);
        };
        half_written();
        assert_eq!(host.list("/").unwrap().unwrap(), [".kdc-a"], "the cut left something");
        host.write("/a", b"whole", own(0o644)).unwrap();
        assert_eq!(host.list("/").unwrap().unwrap(), ["a"]);
        half_written();
        host.make_link("/a", "b").unwrap();
        assert_eq!(host.list("/").unwrap().unwrap(), ["a"]);
        half_written();
        host.remove_scratch("/a").unwrap();
        host.remove_scratch("/a").unwrap();
        assert_eq!(host.list("/").unwrap().unwrap(), ["a"]);
    }

    struct FailingReader;

    impl Read for FailingReader {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the digest differs"))
        }
    }

    #[test]
    fn links_and_directories_come_and_go() {
        let root = tempfile::tempdir().unwrap();
        let host = SystemHost::at(root.path());
        host.make_directory("/d", own(0o750)).unwrap();
        host.make_link("/d/l", "../x").unwrap();
        host.make_link("/d/l", "../y").unwrap();
        assert_eq!(host.read_link("/d/l").unwrap(), "../y");
        assert_eq!(host.stat("/d/l").unwrap().unwrap().kind, Kind::Link);
        assert!(!host.remove_directory("/d").unwrap());
        host.remove_tree("/d").unwrap();
        assert!(host.stat("/d").unwrap().is_none());
        assert!(host.list("/d").unwrap().is_none());
        host.remove("/d").unwrap();
        assert!(host.remove_directory("/d").unwrap());
    }

    #[test]
    fn a_program_gets_its_input_and_a_bare_environment() {
        let host = SystemHost::new();
        let program = shell("cat; env | sort").with_input("secret\n").env("X", "1");
        let text = host.run_checked(&program).unwrap().text();
        let names: Vec<&str> = text.lines().filter_map(|line| line.split('=').next()).collect();
        assert_eq!(names, ["secret", "HOME", "LC_ALL", "PATH", "PWD", "X"]);
    }

    #[test]
    fn a_bad_end_is_told_with_the_end_of_what_was_said() {
        let error = SystemHost::new()
            .run_checked(&shell("yes long | head -c 100000 >&2; echo last >&2; exit 3"))
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("(exit 3)") && text.ends_with("long last"), "{text}");
        assert!(text.len() < 1300, "{}", text.len());
    }

    #[test]
    fn a_program_past_its_deadline_dies_with_its_children() {
        let root = tempfile::tempdir().unwrap();
        let mark = root.path().join("mark");
        let script = format!("echo begun; (sleep 1; touch {}) & sleep 60", mark.display());
        let program = shell(&script).within(Duration::from_millis(300));
        let mut lines = Vec::new();
        let error = SystemHost::new()
            .stream(&program, &mut |_| Ok(()), &mut |line| lines.push(line.to_owned()))
            .unwrap_err();
        assert!(matches!(error, HostError::Deadline { .. }), "{error}");
        assert_eq!(lines, ["begun"]);
        std::thread::sleep(Duration::from_millis(1200));
        assert!(!mark.exists());
    }

    #[test]
    fn a_feed_that_fails_ends_the_program_and_one_that_is_not_read_does_not() {
        let host = SystemHost::new();
        let mut broken = |pipe: &mut dyn Write| {
            pipe.write_all(b"half")?;
            Err(io::Error::other("the digest differs"))
        };
        let mut heard = Vec::new();
        let error = host
            .stream(&shell("cat >/dev/null; echo took it"), &mut broken, &mut |line| {
                heard.push(line.to_owned());
            })
            .unwrap_err();
        assert!(matches!(error, HostError::Feed { .. }), "{error}");
        assert_eq!(heard, [""; 0], "half an input was taken for a whole one");
        let large = vec![0; 4 * 1024 * 1024];
        let output = host.run(&shell("exit 7").with_input(large)).unwrap();
        assert_eq!(output.code, 7);
    }

    #[test]
    fn a_daemon_left_behind_with_open_pipes_is_not_waited_for() {
        let start = Instant::now();
        let output = SystemHost::new().run(&shell("sleep 20 & echo done")).unwrap();
        assert_eq!(output.text(), "done\n");
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_missing_program_is_told_apart() {
        let error = SystemHost::new().run(&Program::new("no-such-program")).unwrap_err();
        assert!(error.is_missing_program());
        assert!(error.hint().is_some_and(|hint| hint.contains("not installed")));
    }
}
