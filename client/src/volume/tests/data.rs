//! Write-behind.

use std::time::Duration;

use bytes::Bytes;
use proto::Errno;
use proto::fop::Op;

use super::super::{Config, OpenHow, WriteHow};
use super::{mount, mount_with};
use crate::testing::memory::MemoryBrick;

fn now() -> WriteHow {
    WriteHow::default()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[tokio::test]
async fn many_small_writes_go_out_in_few_requests() {
    let brick = MemoryBrick::new();
    let (volume, below) = mount(&brick).await;
    let file = volume.open_path("/f", OpenHow::writing(), true).await.unwrap();
    below.take_trips();
    let data = pattern(1_500_000);
    for (i, piece) in data.chunks(1000).enumerate() {
        volume.write(&file, i as u64 * 1000, Bytes::copy_from_slice(piece), now()).await.unwrap();
    }
    assert_eq!(volume.getattr(file.gfid()).await.unwrap().attr.size, 1_500_000);
    volume.flush(&file).await.unwrap();
    assert_eq!(below.take_trips().into_iter().collect::<Vec<_>>(), [(Op::Write, 2)]);
    assert_eq!(brick.content(file.gfid()).unwrap(), data);
    assert_eq!(volume.dirty_inodes(), 0);
    volume.close(file).await.unwrap();
}

#[tokio::test]
async fn stream_flows_while_it_is_written_and_stays_bounded() {
    let brick = MemoryBrick::new();
    brick.set_delay(Duration::from_millis(1));
    let (volume, _) = mount(&brick).await;
    let file = volume.open_path("/f", OpenHow::writing(), true).await.unwrap();
    let piece = Bytes::from(pattern(1 << 18));
    for i in 0..256_u64 {
        volume.write(&file, i << 18, piece.clone(), now()).await.unwrap();
        let buffered = volume.dirty_bytes.load(std::sync::atomic::Ordering::Relaxed);
        assert!(buffered <= (8 << 20) + (1 << 18), "{buffered} bytes are buffered");
    }
    volume.close(file).await.unwrap();
    let content = volume.read_file("/f").await.unwrap();
    assert_eq!(content.len(), 64 << 20);
    assert!(content.chunks(1 << 18).all(|c| c == &piece[..]));
}

#[tokio::test]
async fn a_write_without_space_is_refused_and_an_overwrite_needs_none() {
    let brick = MemoryBrick::new();
    let (volume, _) = mount(&brick).await;
    let file = volume.open_path("/f", OpenHow::writing(), true).await.unwrap();
    volume.write(&file, 0, pattern(8192).into(), now()).await.unwrap();
    volume.flush(&file).await.unwrap();
    brick.set_free(100);
    let refused = volume.write(&file, 8192, pattern(101).into(), now()).await;
    assert_eq!(refused.unwrap_err(), Errno::ENOSPC);
    assert_eq!(volume.getattr(file.gfid()).await.unwrap().attr.size, 8192);
    volume.write(&file, 4096, Bytes::from(vec![9; 4096]), now()).await.unwrap();
    volume.write(&file, 8192, pattern(100).into(), now()).await.unwrap();
    volume.close(file).await.unwrap();
    let content = volume.read_file("/f").await.unwrap();
    assert_eq!(content.len(), 8292);
    assert!(content[4096..8192].iter().all(|byte| *byte == 9));
}

#[tokio::test]
async fn reads_see_what_is_buffered_and_under_way() {
    let brick = MemoryBrick::new();
    let (volume, _) = mount(&brick).await;
    volume.write_file("/f", pattern(200_000)).await.unwrap();
    brick.set_delay(Duration::from_millis(5));
    let how = OpenHow { write: true, ..OpenHow::reading() };
    let file = volume.open_path("/f", how, false).await.unwrap();
    let mut model = pattern(200_000);
    for i in 0..20_u64 {
        let at = (i * 37_001 % 190_000) as usize;
        let piece = vec![i as u8; 5000];
        model[at..at + 5000].copy_from_slice(&piece);
        volume.write(&file, at as u64, piece.into(), now()).await.unwrap();
        if i % 4 == 0 {
            // Under way from now on, and slow.
            volume.want_flushed(&file.node, u64::MAX);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let read = volume.read(&file, 0, 1 << 20).await.unwrap().concat();
        assert!(read == model, "after write {i}");
    }
    volume.close(file).await.unwrap();
    assert_eq!(volume.read_file("/f").await.unwrap(), model);
}

#[tokio::test]
async fn buffered_bytes_go_out_by_themselves_after_a_second() {
    let brick = MemoryBrick::new();
    let config = Config { dirty_age_max: Duration::ZERO, ..Config::default() };
    let (volume, _) = mount_with(&brick, config).await;
    let file = volume.open_path("/f", OpenHow::writing(), true).await.unwrap();
    volume.write(&file, 0, Bytes::from_static(b"soon"), now()).await.unwrap();
    assert_eq!(brick.content(file.gfid()).unwrap(), b"");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(brick.content(file.gfid()).unwrap(), b"soon");
    volume.close(file).await.unwrap();
}

#[tokio::test]
async fn failed_flush_is_told_at_close_and_fsync_once() {
    let brick = MemoryBrick::new();
    let (volume, _) = mount(&brick).await;
    let file = volume.open_path("/f", OpenHow::writing(), true).await.unwrap();
    let other = volume.open_path("/f", OpenHow::writing(), false).await.unwrap();
    brick.fail_next(Op::Write, Errno::ENOSPC);
    volume.write(&file, 0, Bytes::from_static(b"lost"), now()).await.unwrap();
    assert_eq!(volume.fsync(&file, false).await, Err(Errno::ENOSPC));
    assert_eq!(volume.fsync(&file, false).await, Ok(()));
    assert_eq!(volume.flush(&other).await, Err(Errno::ENOSPC));
    let late = volume.open_path("/f", OpenHow::writing(), false).await.unwrap();
    assert_eq!(volume.close(late).await, Ok(()), "opened after the failure");
    assert_eq!(volume.stat_path("/f").await.unwrap().size, 0);
    volume.close(file).await.unwrap();
    volume.release(&other).await;
}

#[tokio::test]
async fn synchronous_files_write_through_and_hear_errors_at_once() {
    let brick = MemoryBrick::new();
    let config = Config { write_behind: false, ..Config::default() };
    for (config, how) in [
        (config, OpenHow::writing()),
        (Config::default(), OpenHow { sync: true, ..OpenHow::writing() }),
        (Config::default(), OpenHow { direct: true, ..OpenHow::writing() }),
    ] {
        let (volume, below) = mount_with(&brick, config).await;
        let file = volume.open_path("/f", how, true).await.unwrap();
        below.take_trips();
        volume.write(&file, 0, Bytes::from_static(b"abc"), now()).await.unwrap();
        assert_eq!(brick.content(file.gfid()).unwrap(), b"abc");
        brick.fail_next(Op::Write, Errno::ENOSPC);
        let failed = volume.write(&file, 0, Bytes::from_static(b"def"), now()).await;
        assert_eq!(failed, Err(Errno::ENOSPC));
        assert_eq!(volume.close(file).await, Ok(()), "told already");
        volume.remove_path("/f").await.unwrap();
    }
}

#[tokio::test]
async fn truncation_and_appending_follow_what_is_buffered() {
    let brick = MemoryBrick::new();
    let (volume, _) = mount(&brick).await;
    let how = OpenHow { append: true, ..OpenHow::writing() };
    let file = volume.open_path("/f", how, true).await.unwrap();
    volume.write(&file, 0, Bytes::from_static(b"abcdef"), now()).await.unwrap();
    let set = super::super::SetAttributes { size: Some(3), ..Default::default() };
    assert_eq!(volume.setattr(file.gfid(), set).await.unwrap().attr.size, 3);
    assert_eq!(volume.write(&file, 0, Bytes::from_static(b"XY"), now()).await, Ok(5));
    assert_eq!(volume.read(&file, 0, 99).await.unwrap().concat(), b"abcXY");
    let again = OpenHow { truncate: true, ..OpenHow::writing() };
    let other = volume.open_path("/f", again, false).await.unwrap();
    assert_eq!(volume.read(&file, 0, 99).await.unwrap().concat(), b"");
    volume.close(other).await.unwrap();
    volume.close(file).await.unwrap();
}

#[tokio::test]
async fn sequential_reader_without_a_kernel_reads_ahead() {
    let brick = MemoryBrick::new();
    let (writer, _) = mount(&brick).await;
    let data = pattern(6 << 20);
    writer.write_file("/f", data.clone()).await.unwrap();
    let (volume, below) = mount(&brick).await;
    let file = volume.open_path("/f", OpenHow::reading(), false).await.unwrap();
    below.take_trips();
    let mut content = Vec::new();
    while content.len() < data.len() {
        let parts = volume.read(&file, content.len() as u64, 16 << 10).await.unwrap();
        parts.iter().for_each(|p| content.extend_from_slice(p));
    }
    assert!(content == data);
    let trips = below.take_trip_count();
    assert!(trips < 60, "{trips} trips for 384 reads");
    volume.release(&file).await;
}
