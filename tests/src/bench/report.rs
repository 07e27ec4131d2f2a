//! Tables, Markdown, JSON and the picture's files.

use std::{fs, io, path::Path};

use anyhow::Context as _;

use super::{
    Found,
    bars::Bar,
    compression,
    figures::{Row, Series},
    machine::Machine,
    picture::{self, Picture},
};
use crate::lab::{program::json_text, table::table};

/// Writes the report into a folder, and removes an older picture where there is nothing to draw. Gives the names of
/// the files that it wrote.
///
/// # Errors
/// When the files cannot be written, or, once the others are, when the picture cannot be drawn.
pub fn write(found: &Found, folder: &Path) -> anyhow::Result<Vec<&'static str>> {
    fs::create_dir_all(folder).with_context(|| format!("the folder {}", folder.display()))?;
    let picture = picture::draw(found);
    let drawn = picture.as_ref().ok().and_then(Option::as_ref);
    let mut files = vec![
        ("bench.md", Some(markdown(found, drawn).into_bytes())),
        ("bench.json", Some(json_text(found).into_bytes())),
    ];
    if !found.compression.is_empty() {
        files.push(("compression.md", Some(compression_markdown(found).into_bytes())));
    }
    let (svg, png) = drawn.map(|picture| (picture.svg.clone().into_bytes(), picture.png.clone())).unzip();
    files.extend([("bench.svg", svg), ("bench.png", png)]);
    let mut written = Vec::new();
    for (name, content) in files {
        let path = folder.join(name);
        if let Some(content) = content {
            fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
            written.push(name);
        } else if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("remove {}", path.display()));
        }
    }
    picture.map(|_| written)
}

fn markdown(found: &Found, picture: Option<&Picture>) -> String {
    let picture = picture.map_or_else(String::new, |picture| format!("![{}](bench.png)\n\n", picture.shows.join("; ")));
    let list = |lines: &[String]| lines.iter().map(|line| format!("- {line}\n")).collect::<String>();
    format!(
        "# What this store can do beside others\n\n{}\n\n{}\n\
         All systems are six processes on loopback (axum: one), asked by one load on one thread of the same machine. A \
         figure is the median of its repeats, with least and most. etcd in memory writes files without waiting for \
         them (`--unsafe-no-fsync`); its leader is asked. CPU is that of all processes of a system together.\n\n{picture}{}",
        measured(found),
        list(&found.machine.versions),
        tables(found),
    )
}

fn compression_markdown(found: &Found) -> String {
    let (measured, report) = (measured(found), compression::report(&found.compression));
    format!("# What compression on the replication stream saves and costs\n\n{measured}\n\n{report}")
}

/// How and where it was measured.
fn measured(found: &Found) -> String {
    let Machine { cores, processor, kernel, load_average, versions: _ } = &found.machine;
    let command = &found.command;
    format!(
        "Measured by `{command}` on {cores} cores ({processor}), Linux {kernel}, load average {load_average} before."
    )
}

/// The tables, which read well on a terminal too.
#[must_use]
pub fn tables(found: &Found) -> String {
    let mut text = String::from("## What is wanted\n\n");
    let bars = found.bars.iter().map(|Bar { name, wanted, found, passed }| {
        let verdict = passed.map_or("not measured", |passed| if passed { "pass" } else { "FAIL" });
        vec![name.clone(), wanted.clone(), found.clone().unwrap_or_default(), verdict.to_owned()]
    });
    text += &table(&["what", "wanted", "found", "verdict"], 4, bars);
    for (series, title) in [
        (Series::Compare, "Systems beside each other"),
        (Series::OpenLoop, "Open loop, at 70 % of the most that each takes"),
        (Series::Keys, "More keys"),
        (Series::Values, "Larger values"),
        (Series::Followers, "More followers"),
        (Series::Connections, "More connections"),
    ] {
        let rows: Vec<&Row> = found.rows.of(series).collect();
        if !rows.is_empty() {
            text += &format!("\n## {title}\n\n{}", figures(&rows));
        }
    }
    if !found.compression.is_empty() {
        text += &format!(
            "\n## Compression of large values on the way to followers\n\n{}",
            compression::tables(&found.compression)
        );
    }
    if let Some(memory) = found.key_memory {
        let (from, to, bytes) = (memory.from, memory.to, memory.bytes);
        text += &format!("\nFrom {from} to {to} keys a node took {bytes:.0} bytes more for each key.\n");
    }
    if !found.notes.is_empty() {
        text += "\n## Notes\n\n";
        found.notes.iter().for_each(|note| text += &format!("- {note}\n"));
    }
    text
}

fn figures(rows: &[&Row]) -> String {
    let header = [
        "storage",
        "operation",
        "system",
        "connections",
        "keys",
        "bytes",
        "followers",
        "per second",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "CPU µs",
        "load's CPU µs",
        "MiB",
        "failed",
    ];
    table(
        &header,
        3,
        rows.iter().map(|row| {
            let point = row.point;
            vec![
                point.storage.to_string(),
                point.operation.to_string(),
                point.system.to_string(),
                point.connections.to_string(),
                point.keys.to_string(),
                point.value_bytes.to_string(),
                point.followers.to_string(),
                format!("{:.0}", row.spread(|figures| figures.per_second)),
                format!("{:.2}", row.spread(|figures| figures.p50_ms)),
                format!("{:.2}", row.spread(|figures| figures.p99_ms)),
                format!("{:.2}", row.spread(|figures| figures.p999_ms)),
                format!("{:.1}", row.spread(|figures| figures.servers_us)),
                format!("{:.1}", row.spread(|figures| figures.client_us)),
                format!("{:.0}", row.spread(|figures| figures.resident_mib).median),
                row.failed().to_string(),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use crate::bench::{
        figures::{
            Rows,
            tests::{figures, point},
        },
        picture::tests::found,
        report::write,
        system::System,
    };

    #[test]
    fn the_report_has_a_picture_while_there_is_something_to_draw() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut rows = Rows::default();
        rows.add(point(System::Quorumkv), figures(0, 1000.0));
        let all = ["bench.md", "bench.json", "bench.svg", "bench.png"];
        assert_eq!(write(&found(rows), folder.path()).expect("written"), all);
        let text = || std::fs::read_to_string(folder.path().join("bench.md")).expect("written");
        assert!(text().contains("![Writes in memory; CPU per write, of all processes](bench.png)"), "{}", text());
        assert!(all.iter().all(|name| folder.path().join(name).is_file()));

        // Nothing to draw: what is there of the picture is from another run.
        assert_eq!(write(&found(Rows::default()), folder.path()).expect("written"), all[..2]);
        assert!(!text().contains("bench.png"), "{}", text());
        assert!(all[2..].iter().all(|name| !folder.path().join(name).exists()));
    }
}
