//! Processor time and memory of processes.

use std::{fs, time::Duration};

use anyhow::Context as _;
use rustix::{param::clock_ticks_per_second, process::Pid};

/// Processor time that a process and its threads had so far, its own and the kernel's on its behalf.
///
/// # Errors
/// When there is no such process.
pub fn processor_time(process: Pid) -> anyhow::Result<Duration> {
    let stat = read(process, "stat")?;
    let ticks = ticks(&stat).with_context(|| format!("stat of a process: {stat}"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64))
}

/// The name of the program stands in parentheses and may contain anything; fields are counted after it.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

/// Memory that a process occupies, in KiB.
///
/// # Errors
/// When there is no such process.
pub fn resident_kib(process: Pid) -> anyhow::Result<u64> {
    let status = read(process, "status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().with_context(|| format!("VmRSS:{line}"))
}

fn read(process: Pid, file: &str) -> anyhow::Result<String> {
    let path = format!("/proc/{}/{file}", process.as_raw_nonzero());
    fs::read_to_string(&path).with_context(|| path)
}

/// Of several processes together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time so far.
    pub processor: Duration,
    /// Memory, in KiB.
    pub resident_kib: u64,
}

impl Usage {
    /// What these processes have used so far.
    ///
    /// # Errors
    /// When one of them has ended.
    pub fn of(processes: &[Pid]) -> anyhow::Result<Self> {
        let mut sum = Self::default();
        for process in processes {
            sum.processor += processor_time(*process)?;
            sum.resident_kib += resident_kib(*process)?;
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_name_with_parentheses_hides_no_field() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 31 11 0 0 20 0 1 0 5 6 7";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a) S 1"), None);
    }

    #[test]
    fn work_shows_as_processor_time_and_memory_as_memory() {
        let own = [rustix::process::getpid()];
        let before = Usage::of(&own).expect("this process lives");
        let many = vec![1_u8; 64 << 20];
        let begun = Instant::now();
        let mut sum = 0_u64;
        while begun.elapsed() < Duration::from_millis(200) {
            sum = many.iter().step_by(4096).fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte)));
        }
        let after = Usage::of(&own).expect("this process lives");
        assert!(after.processor - before.processor >= Duration::from_millis(50), "{before:?} {after:?} {sum}");
        assert!(after.resident_kib >= 64 << 10, "{after:?}");
    }
}
