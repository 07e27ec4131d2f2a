use resvg::{tiny_skia::Pixmap, usvg::roxmltree};

use super::*;
use crate::{
    bench::{
        figures::{
            Figures, Point,
            tests::{figures, point},
        },
        machine::Machine,
    },
    drawing::{
        HEAD, PANEL, WIDTH,
        tests::{assert_readable, texts},
        text::number,
    },
};

/// What a run would give that measured these.
pub(crate) fn found(rows: Rows) -> Found {
    let text = String::new;
    let machine = Machine { cores: 2, processor: text(), kernel: text(), load_average: text(), versions: Vec::new() };
    Found {
        command: text(),
        machine,
        notes: Vec::new(),
        bars: Vec::new(),
        rows,
        key_memory: None,
        delay: Vec::new(),
        compression: Vec::new(),
    }
}

/// Three repeats around these.
fn add(rows: &mut Rows, point: Point, per_second: f64, servers_us: f64) {
    for (repeat, times) in [1.0, 0.9, 1.06].into_iter().enumerate() {
        rows.add(point, Figures { servers_us: servers_us / times, ..figures(repeat, per_second * times) });
    }
}

/// What one value becomes.
type Change = fn(f64) -> f64;

/// Every system by every number of connections, with rates and processor times that `change` makes of plausible ones.
fn compared(storages: &[Storage], quorums: &[u8], connections: &[usize], change: Change) -> Rows {
    let mut rows = Rows::default();
    for storage in storages {
        for connections in connections {
            let waiting = if *storage == Storage::Memory { 1.0 } else { 3.7 };
            let slower = waiting * (1.0 + 9.0 / *connections as f64);
            let all = [
                (System::Quorumkv, 61_234.0),
                (System::Redis, 48_700.0),
                (System::EtcdGateway, 4120.0),
                (System::EtcdGrpc, 9380.0),
                (System::Axum, 96_100.0),
            ];
            for (system, rate) in all {
                let point = Point { storage: *storage, connections: *connections, ..point(system) };
                let is_etcd = matches!(system, System::EtcdGateway | System::EtcdGrpc);
                for quorum in quorums.iter().filter(|quorum| system != System::Axum && (!is_etcd || **quorum == 3)) {
                    let rate = change(rate / slower * (1.03 - 0.01 * f64::from(*quorum)));
                    let point = Point { operation: Operation::Write { quorum: *quorum }, ..point };
                    add(&mut rows, point, rate, change(1.5e6 / rate));
                }
                if *storage == Storage::Memory && !is_etcd {
                    let point = Point { operation: Operation::Read, ..point };
                    add(&mut rows, point, change(1.4 * rate / slower), change(14.0));
                }
            }
        }
    }
    rows
}

fn grown(rows: &mut Rows) {
    for (keys, us) in [(1000, 30.1), (10_000, 30.9), (100_000, 32.6), (1_000_000, 34.4)] {
        let write = Point { series: Series::Keys, keys, ..point(System::Quorumkv) };
        add(rows, write, 2e6 / us, us);
        add(rows, Point { operation: Operation::Read, ..write }, 2e6 / us, us / 2.5);
    }
}

fn full() -> Rows {
    let mut rows = compared(&[Storage::Memory], &[1, 3, 5], &[1, 64, 256], |same| same);
    for row in compared(&[Storage::Persistent], &[3], &[1, 64, 256], |same| same).of(Series::Compare) {
        row.samples.iter().for_each(|figures| rows.add(row.point, figures.clone()));
    }
    grown(&mut rows);
    rows
}

/// The picture, and titles of its panels.
fn drawn(rows: Rows) -> (String, Vec<&'static str>) {
    let found = found(rows);
    let panels = panels(&found.rows);
    let svg = svg(&panels, &found).expect("drawn");
    (svg, panels.iter().map(Panel::title).collect())
}

#[test]
fn the_picture_shows_what_was_measured() {
    let rows = full();
    let median = |storage, system, connections, figure: fn(&Figures) -> f64| {
        let row = rows.find(Series::Compare, |point| {
            (point.storage, point.system, point.connections) == (storage, system, connections)
                && point.operation == Operation::Write { quorum: 3 }
        });
        number(row.expect("measured").spread(figure).median)
    };
    let mut wanted: Vec<String> = [
        "What quorumkv can do beside others",
        "values of 256 bytes, 5 followers, one machine with 2 cores; medians of 3 repeats, whiskers from least to most",
        "Writes in memory",
        "writes per second, 64 connections",
        "Writes on disk, with fsync",
        "writes per second, quorum 3",
        "CPU per write, of all processes",
        "connections; quorum 3, in memory",
        "1 million",
        "write, q 3: 34.4 µs",
        "read: 13.8 µs",
    ]
    .map(str::to_owned)
    .to_vec();
    for system in [System::Quorumkv, System::Redis, System::EtcdGateway, System::EtcdGrpc] {
        wanted.push(system.to_string());
        wanted.push(median(Storage::Memory, system, 64, |figures| figures.per_second));
        wanted.extend(
            [1, 64, 256]
                .map(|connections| median(Storage::Persistent, system, connections, |figures| figures.per_second)),
        );
        wanted.push(format!("{system}: {} µs", median(Storage::Memory, system, 256, |figures| figures.servers_us)));
    }
    let picture = draw(&found(rows)).expect("drawn").expect("there is something to draw");
    let texts = texts(&picture.svg);
    for text in wanted {
        assert!(texts.contains(&text), "{text:?} is missing in {texts:?}");
    }
    let pixels = Pixmap::decode_png(&picture.png).expect("a PNG");
    assert_eq!((pixels.width(), pixels.height()), (WIDTH, HEAD + 2 * PANEL));
}

#[test]
fn what_was_not_measured_is_left_out() {
    let memory = "Writes in memory";
    let disk = "Writes on disk, with fsync";
    let cost = "CPU per write, of all processes";
    let growth = "CPU per operation as keys grow, of all processes";
    let reads = "Reads in memory";
    let compared = |storages: &[Storage]| compared(storages, &[3], &[64], |same| same);
    let only_grown = || {
        let mut rows = Rows::default();
        grown(&mut rows);
        rows
    };
    let mut in_memory = compared(&[Storage::Memory]);
    grown(&mut in_memory);
    let cases = [
        (full(), vec![memory, disk, cost, growth], 2),
        (in_memory, vec![memory, cost, growth, reads], 2),
        (compared(&[Storage::Memory]), vec![memory, cost, reads], 2),
        (compared(&[Storage::Persistent]), vec![disk], 1),
        (only_grown(), vec![growth], 1),
    ];
    for (rows, shows, high) in cases {
        let (svg, titles) = drawn(rows);
        assert_eq!(titles, shows);
        let texts = texts(&svg);
        for title in [memory, disk, cost, growth, reads] {
            assert_eq!(texts.iter().any(|text| text == title), shows.contains(&title), "{title} of {shows:?}");
        }
        let size = format!("<svg width=\"{WIDTH}\" height=\"{}\"", HEAD + high * PANEL);
        assert!(svg.starts_with(&size), "{size} of {shows:?}");
        assert_readable(&shows.join(", "), &svg);
    }
    let alone = texts(&drawn(only_grown()).0);
    assert!(alone.iter().any(|text| text == "What quorumkv can do"), "nobody is beside it: {alone:?}");
    assert_eq!(draw(&found(Rows::default())).expect("nothing fails"), None);
}

#[test]
fn labels_do_not_cover_each_other_whatever_the_values() {
    let both = [Storage::Memory, Storage::Persistent];
    let connections = [1, 2, 4, 16, 63, 64, 65, 256, 1024];
    let changes: [(&str, Change); 5] = [
        ("as they are", |same| same),
        ("all alike", |_| 33.3),
        ("nearly alike", |value| 5000.0 + value / 1000.0),
        ("far apart", |value| value.powi(2) / 1e4),
        ("almost nothing", |value| value / 1e8),
    ];
    for (what, change) in changes {
        let mut rows = compared(&both, &[1, 2, 3, 4, 5], &connections, change);
        assert_readable(what, &drawn(rows.clone()).0);
        grown(&mut rows);
        assert_readable(&format!("{what}, with growth"), &drawn(rows).0);
    }
    // As short as no run is: once, by one, and no tick of the clock that counts processor time.
    let mut rows = Rows::default();
    for operation in [Operation::Write { quorum: 1 }, Operation::Read] {
        let once = Point { operation, connections: 1, ..point(System::Quorumkv) };
        rows.add(once, Figures { servers_us: 0.0, ..figures(0, 3.0) });
        rows.add(Point { series: Series::Keys, ..once }, Figures { servers_us: 0.0, ..figures(0, 3.0) });
    }
    let (svg, titles) = drawn(rows);
    assert_readable("once", &svg);
    assert_eq!(titles.len(), 3, "no processor time per write: {titles:?}");
    let texts = texts(&svg);
    for wanted in ["values of 256 bytes, 5 followers, one machine with 2 cores; each measured once", "3.00"] {
        assert!(texts.iter().any(|text| text == wanted), "{wanted:?} is missing in {texts:?}");
    }
}

#[test]
fn bars_are_as_long_as_medians_and_whiskers_go_from_least_to_most() {
    let mut rows = Rows::default();
    for (repeat, per_second) in [1000.0, 500.0, 2000.0].into_iter().enumerate() {
        rows.add(point(System::Quorumkv), figures(repeat, per_second));
        rows.add(point(System::Redis), figures(repeat, 250.0));
    }
    let (svg, _) = drawn(rows);
    let document = roxmltree::Document::parse(&svg).expect("XML");
    let number = |node: roxmltree::Node<'_, '_>, name: &str| -> f64 {
        node.attribute(name).and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} of {node:?}"))
    };
    let bar = |colour: &str| {
        let rectangle = document.descendants().find(|node| node.attribute("fill") == Some(colour)).expect("a bar");
        ["x", "width", "y", "height"].map(|name| number(rectangle, name))
    };
    let ([start, width, y, height], [redis_start, redis_width, ..]) = (bar("#32CD32"), bar("#DC143C"));
    assert!((width / redis_width - 4.0).abs() < 0.05 && (start - redis_start).abs() < 0.5, "{width} {redis_width}");
    let lines = document.descendants().filter_map(|node| node.attribute("points"));
    let ends = lines.filter_map(|points| {
        let pairs = points.split_whitespace().map(|pair| {
            let (x, y) = pair.split_once(',').expect("two numbers");
            (x.parse::<f64>().expect("a number"), y.parse::<f64>().expect("a number"))
        });
        match pairs.collect::<Vec<_>>().as_slice() {
            [(from, above), (to, below)] if above == below => Some((*from, *to, *above)),
            _ => None,
        }
    });
    let mut middle = ends.filter(|(.., at)| (at - y - height / 2.0).abs() < 1.5);
    let (from, to, _) = middle.next().expect("a whisker");
    assert!(((from - start) / width - 0.5).abs() < 0.02, "from {from}, bar {start} + {width}");
    assert!(((to - start) / width - 2.0).abs() < 0.02, "to {to}, bar {start} + {width}");
}

#[test]
fn systems_are_told_apart_without_colours() {
    let luminance = |RGBColor(red, green, blue): RGBColor| {
        let linear = |part: u8| (f64::from(part) / 255.0).powf(2.2);
        0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)
    };
    let contrast = |one, other| {
        let (one, other) = (luminance(one) + 0.05, luminance(other) + 0.05);
        one.max(other) / one.min(other)
    };
    let all = [System::Quorumkv, System::Redis, System::EtcdGateway, System::EtcdGrpc, System::Axum];
    for (number, one) in all.into_iter().enumerate() {
        let Look { colour, mark, stripes } = look(one);
        assert!(stripes.is_none_or(|stripes| contrast(colour, stripes) > 3.0), "stripes of {one}");
        for other in &all[number + 1..] {
            let beside = look(*other);
            if beside.stripes.is_some() == stripes.is_some() {
                assert!(contrast(colour, beside.colour) > 1.9, "bars of {one} and {other}");
            }
            // Writes, which lines show, are nothing for axum.
            assert!(mark != beside.mark || *other == System::Axum, "marks of {one} and {other}");
        }
    }
}
