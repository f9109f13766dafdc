//! The workloads by name. One worker thread runs one `Task`; workers share nothing but the
//! directory.

mod large;
mod small;

use std::io;
use std::path::{Path, PathBuf};

use crate::record::Record;

/// Sizes and counts of one run, the same for every workload.
#[derive(Clone, Debug)]
pub struct Plan {
    pub dir: PathBuf,
    pub clients: usize,
    /// Files per client of the small-file workloads.
    pub files: u64,
    /// Bytes of one small file.
    pub file_bytes: usize,
    /// Bytes of one client's file in the large-file workloads.
    pub large_bytes: u64,
    /// Operations per client of the random workloads.
    pub operations: u64,
    pub seed: u64,
}

impl Plan {
    /// The folder of one client.
    pub fn client_dir(&self, client: usize) -> PathBuf {
        self.dir.join(format!("client-{client}"))
    }
}

type Task = fn(&Plan, usize, &mut Record) -> io::Result<()>;

/// A named workload.
pub struct Workload {
    pub name: &'static str,
    pub meaning: &'static str,
    /// What must exist before it: run untimed by every client.
    pub prepare: Option<Task>,
    pub task: Task,
}

/// Every workload, in an order in which each finds what it needs.
pub const ALL: &[Workload] = &[
    Workload {
        name: "create",
        meaning: "create, write and close small files in one folder a client",
        prepare: None,
        task: small::create,
    },
    Workload {
        name: "stat",
        meaning: "stat each file",
        prepare: Some(small::exist),
        task: small::stat,
    },
    Workload {
        name: "list",
        meaning: "read the folder and stat each name (ls -l)",
        prepare: Some(small::exist),
        task: small::list,
    },
    Workload {
        name: "read",
        meaning: "open, read and close each file",
        prepare: Some(small::exist),
        task: small::read,
    },
    Workload {
        name: "rename",
        meaning: "rename each file in its folder",
        prepare: Some(small::exist),
        task: small::rename,
    },
    Workload {
        name: "delete",
        meaning: "unlink each file",
        prepare: Some(small::exist),
        task: small::delete,
    },
    Workload {
        name: "seqwrite-1M",
        meaning: "write one large file in 1 MiB calls, then fsync",
        prepare: None,
        task: large::sequential_write,
    },
    Workload {
        name: "seqread-1M",
        meaning: "read one large file in 1 MiB calls",
        prepare: Some(large::exist),
        task: large::sequential_read,
    },
    Workload {
        name: "randwrite-4k",
        meaning: "overwrite 4 KiB at random places, fsync at the end",
        prepare: Some(large::exist),
        task: large::random_write,
    },
    Workload {
        name: "randread-4k",
        meaning: "read 4 KiB at random places",
        prepare: Some(large::exist),
        task: large::random_read,
    },
    Workload {
        name: "syncwrite-4k",
        meaning: "append 4 KiB and fdatasync each time",
        prepare: None,
        task: large::sync_write,
    },
];

pub fn by_name(name: &str) -> Option<&'static Workload> {
    ALL.iter().find(|w| w.name == name)
}

/// `create_dir_all` that does not count as a timed operation.
fn ensure_dir(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)
}
