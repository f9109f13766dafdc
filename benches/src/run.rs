//! Runs a workload with its clients and gathers what they recorded.

use std::io;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::record::Record;
use crate::workload::{Plan, Workload};

/// What came out of one workload.
pub struct Measured {
    pub name: &'static str,
    pub clients: usize,
    /// From the moment all clients were ready to the end of the last one.
    pub wall: Duration,
    pub record: Record,
}

/// Prepares (untimed), then runs one thread per client.
///
/// # Errors
/// The first error that kept a client from going on; single failed operations are counted in
/// the record instead.
pub fn run(workload: &'static Workload, plan: &Plan) -> io::Result<Measured> {
    std::fs::create_dir_all(&plan.dir)?;
    if let Some(prepare) = workload.prepare {
        each_client(plan, prepare)?;
    }
    let (record, wall) = each_client(plan, workload.task)?;
    Ok(Measured { name: workload.name, clients: plan.clients, wall, record })
}

fn each_client(
    plan: &Plan,
    task: fn(&Plan, usize, &mut Record) -> io::Result<()>,
) -> io::Result<(Record, Duration)> {
    let ready = Barrier::new(plan.clients + 1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..plan.clients)
            .map(|client| {
                let ready = &ready;
                scope.spawn(move || {
                    let mut record = Record::default();
                    ready.wait();
                    task(plan, client, &mut record).map(|()| record)
                })
            })
            .collect();
        ready.wait();
        let start = Instant::now();
        let mut all = Record::default();
        let mut first_error = None;
        for worker in workers {
            match worker.join().expect("a worker's panic is a bug of the workload") {
                Ok(record) => all.merge(record),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok((all, start.elapsed())), Err)
    })
}
