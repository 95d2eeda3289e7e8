use super::*;
use crate::storage::conformance;

/// A directory of its own that goes away with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ottla-files-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn files_keep_what_the_traits_promise() {
    let directory = Directory::new("conformance");
    conformance(&FileDevice::open(&directory.0).unwrap());
}

#[test]
fn a_directory_has_one_owner_in_a_process() {
    let directory = Directory::new("owner");
    let device = FileDevice::open(&directory.0).unwrap();
    let error = FileDevice::open(directory.0.join("../").join(directory.0.file_name().unwrap())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert!(error.to_string().contains("already open in this process"), "{error}");
    drop(device);
    FileDevice::open(&directory.0).unwrap();
}

#[test]
fn a_directory_that_another_process_owns_names_it() {
    let directory = Directory::new("other-owner");
    fs::create_dir_all(&directory.0).unwrap();
    // Python's lockf takes the lock that Kafka takes; without Python there is nothing to test against.
    let script = "import fcntl,os,sys; f=open(sys.argv[1],'w'); fcntl.lockf(f,fcntl.LOCK_EX); f.write(str(os.getpid())); \
                  f.flush(); print('locked',flush=True); sys.stdin.read()";
    let child = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(directory.0.join(LOCK))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: no python3");
        return;
    };
    let mut line = [0; 7];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    let error = FileDevice::open(&directory.0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert!(error.to_string().contains(&format!("owner_pid={}", child.id())), "{error}");
    assert!(error.to_string().contains("ottla serve"), "{error}");
    drop(child.stdin.take());
    child.wait().unwrap();
    FileDevice::open(&directory.0).unwrap();
}

#[test]
fn a_file_in_the_way_of_the_directory_is_said() {
    let directory = Directory::new("in-the-way");
    fs::write(&directory.0, b"a file").unwrap();
    let error = FileDevice::open(&directory.0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    fs::remove_file(&directory.0).unwrap();
}
