//! Trips of DESIGN section 16, counted.

use bytes::Bytes;
use proto::fop::Op;
use proto::{Errno, Gfid};

use super::super::{NewInode, OpenHow, Volume, WriteHow};
use super::mount;
use crate::testing::memory::MemoryBrick;

async fn fill(volume: &Volume, dir: Gfid, count: usize, data: &[u8]) {
    for i in 0..count {
        let name = format!("f{i}");
        let made = volume
            .create_open(dir, name.as_bytes(), NewInode::file(0o644), OpenHow::writing(), true)
            .await;
        let (_, _, file) = made.unwrap();
        volume.write(&file, 0, Bytes::copy_from_slice(data), WriteHow::default()).await.unwrap();
        volume.close(file).await.unwrap();
    }
}

#[tokio::test]
async fn create_in_an_own_directory_costs_one_trip_and_its_lookup_none() {
    let brick = MemoryBrick::new();
    let (volume, below) = mount(&brick).await;
    let dir = volume.mkdir_all("/d").await.unwrap();
    below.take_trips();
    assert_eq!(volume.lookup(dir, b"f").await.unwrap().found().unwrap_err(), Errno::ENOENT);
    assert_eq!(below.take_trip_count(), 0, "a directory made here is known completely");
    let how = OpenHow::writing();
    let new = NewInode::file(0o644);
    let (_, _, file) = volume.create_open(dir, b"f", new, how, true).await.unwrap();
    assert_eq!(below.take_trips().into_iter().collect::<Vec<_>>(), [(Op::Create, 1)]);
    volume.write(&file, 0, Bytes::from_static(b"small"), WriteHow::default()).await.unwrap();
    assert_eq!(below.take_trip_count(), 0);
    volume.close(file).await.unwrap();
    assert_eq!(below.take_trips().into_iter().collect::<Vec<_>>(), [(Op::Write, 1)]);
    let found = volume.lookup(dir, b"f").await.unwrap().found().unwrap();
    assert_eq!(found.attr.size, 5);
    assert_eq!(volume.read_file("/d/f").await.unwrap(), b"small");
    volume.getattr(dir).await.unwrap();
    assert_eq!(below.take_trip_count(), 0, "what was made here is known here");
}

#[tokio::test]
async fn making_and_removing_cost_one_trip_each() {
    let brick = MemoryBrick::new();
    let (volume, below) = mount(&brick).await;
    let dir = volume.mkdir_all("/d").await.unwrap();
    below.take_trips();
    volume.create(dir, b"sub", NewInode::dir(0o755)).await.unwrap();
    assert_eq!(below.take_trip_count(), 1, "mkdir");
    volume.create(dir, b"s", NewInode::symlink(b"there")).await.unwrap();
    assert_eq!(below.take_trip_count(), 1, "symlink");
    volume.create(dir, b"a", NewInode::file(0o644)).await.unwrap();
    below.take_trips();
    volume.rename((dir, b"a"), (dir, b"b"), 0).await.unwrap();
    assert_eq!(below.take_trip_count(), 1, "rename");
    volume.unlink(dir, b"b").await.unwrap();
    assert_eq!(below.take_trip_count(), 1, "unlink");
    volume.create(dir, b"b", NewInode::file(0o644)).await.unwrap();
    assert_eq!(below.take_trip_count(), 1, "create after unlink");
    volume.rmdir(dir, b"sub").await.unwrap();
    assert_eq!(below.take_trip_count(), 1, "rmdir");
}

#[tokio::test]
async fn cold_small_file_is_read_in_one_trip_and_again_in_none() {
    let brick = MemoryBrick::new();
    let (writer, _) = mount(&brick).await;
    let dir = writer.mkdir_all("/d").await.unwrap();
    fill(&writer, dir, 3, b"content").await;
    let (volume, below) = mount(&brick).await;
    volume.resolve("/d").await.unwrap();
    below.take_trips();
    assert_eq!(volume.read_file("/d/f1").await.unwrap(), b"content");
    assert_eq!(below.take_trips().into_iter().collect::<Vec<_>>(), [(Op::Lookup, 1)]);
    assert_eq!(volume.read_file("/d/f1").await.unwrap(), b"content");
    volume.stat_path("/d/f1").await.unwrap();
    assert_eq!(below.take_trip_count(), 0);
}

#[tokio::test]
async fn negative_lookup_costs_nothing_once_the_lease_is_held() {
    let brick = MemoryBrick::new();
    let (writer, _) = mount(&brick).await;
    let dir = writer.mkdir_all("/d").await.unwrap();
    fill(&writer, dir, 1, b"x").await;
    let (volume, below) = mount(&brick).await;
    volume.stat_path("/d/f0").await.unwrap();
    let _ = volume.lookup(dir, b"none").await.unwrap();
    below.take_trips();
    let looked = volume.lookup(dir, b"none").await.unwrap();
    assert_eq!(looked.found().unwrap_err(), Errno::ENOENT);
    assert_eq!(below.take_trip_count(), 0);
}

#[tokio::test]
async fn listing_costs_one_trip_for_a_thousand_entries_and_makes_all_known() {
    let brick = MemoryBrick::new();
    let (writer, _) = mount(&brick).await;
    let dir = writer.mkdir_all("/d").await.unwrap();
    fill(&writer, dir, 1500, b"").await;
    let (reader, below) = mount(&brick).await;
    reader.resolve("/d").await.unwrap();
    // The writer's leases on the files are free to be shared only once it lost interest: here
    // they are recalled one by one as somebody looks.
    for i in 0..1500 {
        reader.stat_path(&format!("/d/f{i}")).await.unwrap();
    }
    let (volume, own) = mount(&brick).await;
    volume.resolve("/d").await.unwrap();
    own.take_trips();
    assert_eq!(volume.list("/d").await.unwrap().len(), 1500);
    assert_eq!(own.take_trips().into_iter().collect::<Vec<_>>(), [(Op::Readdir, 2)]);
    for i in 0..1500 {
        volume.stat_path(&format!("/d/f{i}")).await.unwrap();
    }
    let looked = volume.lookup(dir, b"none").await.unwrap();
    assert_eq!(looked.found().unwrap_err(), Errno::ENOENT);
    assert_eq!(own.take_trip_count(), 0, "stat of what was listed, and of what was not there");
    assert_eq!(volume.list("/d").await.unwrap().len(), 1500);
    assert_eq!(own.take_trip_count(), 0, "a complete directory is listed from memory");
    drop(below);
}

#[tokio::test]
async fn scan_that_reads_nothing_stops_to_bring_data_along() {
    let brick = MemoryBrick::new();
    let (writer, _) = mount(&brick).await;
    let dir = writer.mkdir_all("/d").await.unwrap();
    fill(&writer, dir, 300, &[1; 1000]).await;
    let (volume, _below) = mount(&brick).await;
    for i in 0..300 {
        volume.stat_path(&format!("/d/f{i}")).await.unwrap();
    }
    let kept = volume.clean_bytes.load(std::sync::atomic::Ordering::Relaxed);
    assert!(kept < 80 * 1000, "{kept} bytes came along unread");
}
