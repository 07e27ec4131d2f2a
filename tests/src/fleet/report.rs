//! What was found, as a page.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::fleet::measure::Requests;

/// What one process used.
#[derive(Debug, Clone, PartialEq)]
pub struct Used {
    /// Its name.
    pub name: String,
    /// Share of one processor while stores were made.
    pub busy: f64,
    /// Share of one processor while nothing changed.
    pub idle: f64,
    /// The same while some stores waited for a person.
    pub waiting: f64,
    /// Memory at rest, in MiB.
    pub resident_mib: f64,
}

/// A span of time in which requests and reconciles were counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Span {
    /// How long it was.
    pub lasted: Duration,
    /// Reconciles that ended in it.
    pub reconciles: f64,
    /// Requests to the API server in it.
    pub requests: Vec<Requests>,
}

impl Span {
    /// Requests for each reconcile, those about the lease left out.
    #[must_use]
    pub fn requests_per_reconcile(&self) -> f64 {
        let counted = self.requests.iter().filter(|one| !one.is_of_the_lease());
        counted.map(|one| one.count as f64).sum::<f64>() / self.reconciles.max(1.0)
    }

    /// Requests that change something, with those about the lease left out.
    #[must_use]
    pub fn writes(&self) -> Vec<&Requests> {
        self.requests.iter().filter(|one| one.are_writes()).collect()
    }
}

/// A time in which nobody wished for anything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Quiet {
    /// What the operator did in it.
    pub span: Span,
    /// Objects whose version changed, though nothing should.
    pub changed: Vec<String>,
}

impl Quiet {
    fn faults(&self, clusters: usize, when: &str) -> Vec<String> {
        let mut faults = Vec::new();
        for Requests { verb, resource, count } in self.span.writes() {
            faults.push(format!("the operator sent {count} x {verb} {resource} {when}"));
        }
        if !self.changed.is_empty() {
            faults.push(format!("these changed {when}: {:?}", self.changed));
        }
        // Once a second each, where the processors keep up; a tenth of that is not an operator at rest but a stuck one.
        let least = clusters as f64 * self.span.lasted.as_secs_f64() / 10.0;
        if self.span.reconciles < least {
            faults.push(format!("only {} reconciles {when}, of {least} at least", self.span.reconciles));
        }
        faults
    }
}

/// All of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Stores.
    pub clusters: usize,
    /// Nodes of each, the leader included.
    pub nodes_each: usize,
    /// Machines that the pods were spread over.
    pub machines: usize,
    /// The machine that it ran on, and the versions of what ran.
    pub setting: String,
    /// Until the API server had taken all KvClusters.
    pub created: Duration,
    /// Until so many objects of each kind were there.
    pub objects: BTreeMap<&'static str, (usize, Duration)>,
    /// Until every store was Ready with all its followers.
    pub ready: Duration,
    /// Until then.
    pub making: Span,
    /// While nothing changed.
    pub idle: Quiet,
    /// Stores that lost every copy.
    pub halted: usize,
    /// While they waited for a person.
    pub waiting: Quiet,
    /// Leaders promoted, all in all.
    pub elections: f64,
    /// Reconciles that failed, by error, all in all.
    pub failed: Vec<String>,
    /// Reconciles that were put off, all in all.
    pub put_off: f64,
    /// The operator first.
    pub used: Vec<Used>,
}

impl Report {
    /// What is wrong; nothing if all is well.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.idle.faults(self.clusters, "while nothing changed");
        faults.extend(self.waiting.faults(self.clusters, "while stores waited for a person"));
        if !self.failed.is_empty() {
            faults.push(format!("reconciles failed: {}", self.failed.join(", ")));
        }
        faults
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn table(f: &mut fmt::Formatter<'_>, Span { lasted, reconciles, requests }: &Span) -> fmt::Result {
    writeln!(f, "| verb | resource | requests | per reconcile |\n| --- | --- | ---: | ---: |")?;
    for Requests { verb, resource, count } in requests {
        writeln!(f, "| {verb} | {resource} | {count} | {:.4} |", *count as f64 / reconciles.max(1.0))?;
    }
    writeln!(f, "\n{reconciles} reconciles in {}.", seconds(*lasted))
}

fn quiet(f: &mut fmt::Formatter<'_>, Quiet { span, changed }: &Quiet) -> fmt::Result {
    table(f, span)?;
    let writes: u64 = span.writes().iter().map(|one| one.count).sum();
    writeln!(
        f,
        "\n{:.4} requests for each reconcile, {writes} of them writes, the lease of the operator left out; {} of the objects got another\n\
         version, whoever wrote.\n",
        span.requests_per_reconcile(),
        changed.len(),
    )
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { clusters, nodes_each, machines, setting, created, objects, ready, making, .. } = self;
        let Self { idle, halted, waiting, .. } = self;
        let pods = clusters * nodes_each;
        writeln!(f, "# {clusters} stores under one operator\n")?;
        writeln!(
            f,
            "Written by `make fleet`. A real API server with etcd, the StatefulSet controller and the scheduler; {machines} machines and\n\
             {pods} pods that kwok plays; nodes that are the replication core of this project without clients, values and sockets between\n\
             them, answering on their pods' addresses. So the times are those of operator and control plane, not of containers that start.\n\
             Everything shares one machine: {setting}.\n"
        )?;
        writeln!(f, "| since the first KvCluster was sent, until | time |\n| --- | ---: |")?;
        writeln!(f, "| all {clusters} KvClusters are taken | {} |", seconds(*created))?;
        for (kind, (count, after)) in objects {
            writeln!(f, "| all {count} objects of kind {kind} exist | {} |", seconds(*after))?;
        }
        writeln!(f, "| every store is Ready with all its followers | {} |\n", seconds(*ready))?;
        let failed = if self.failed.is_empty() { "none".to_owned() } else { self.failed.join(", ") };
        writeln!(
            f,
            "{} leaders were promoted for {clusters} stores. Reconciles that failed: {failed}; put off because others wrote at the same\n\
             time: {}.\n",
            self.elections, self.put_off
        )?;
        writeln!(f, "## Requests of the operator to the API server\n\nWhile stores were made:\n")?;
        table(f, making)?;
        writeln!(
            f,
            "\n{:.2} requests for each reconcile, {:.1} for each store; the lease of the operator is left out.\n\nWhile nothing changed:\n",
            making.requests_per_reconcile(),
            making.requests_per_reconcile() * making.reconciles / *clusters as f64,
        )?;
        quiet(f, idle)?;
        writeln!(
            f,
            "While nothing changed, and {halted} of the stores had lost every copy and waited for a person:\n"
        )?;
        quiet(f, waiting)?;
        writeln!(
            f,
            "## Processors and memory\n\n| process | while stores are made | at rest | while some wait | memory |\n\
             | --- | ---: | ---: | ---: | ---: |"
        )?;
        for Used { name, busy, idle, waiting, resident_mib } in &self.used {
            writeln!(f, "| {name} | {busy:.2} | {idle:.2} | {waiting:.2} | {resident_mib:.0} MiB |")?;
        }
        writeln!(f, "\nProcessors: 1.00 is one of them, all of the time. Memory is what is resident at rest.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(verb: &str, resource: &str, count: u64) -> Requests {
        Requests { verb: verb.to_owned(), resource: resource.to_owned(), count }
    }

    fn report() -> Report {
        let span = |reconciles, requests| Span { lasted: Duration::from_secs(60), reconciles, requests };
        let quiet = |reconciles| {
            let requests = vec![request("get", "secrets", 2), request("update", "leases", 12)];
            Quiet { span: span(reconciles, requests), changed: Vec::new() }
        };
        Report {
            clusters: 2,
            nodes_each: 6,
            machines: 3,
            setting: "two processors".to_owned(),
            created: Duration::from_millis(500),
            objects: [("Pod", (12, Duration::from_secs(4)))].into(),
            ready: Duration::from_secs(9),
            making: span(40.0, vec![request("patch", "services", 6), request("update", "leases", 30)]),
            idle: quiet(120.0),
            halted: 1,
            waiting: quiet(110.0),
            elections: 2.0,
            failed: Vec::new(),
            put_off: 1.0,
            used: vec![Used { name: "operator".to_owned(), busy: 0.5, idle: 0.1, waiting: 0.1, resident_mib: 40.0 }],
        }
    }

    #[test]
    fn an_operator_at_rest_renews_its_lease_and_writes_nothing_else() {
        assert_eq!(report().faults(), Vec::<String>::new());
        for spoil in [
            |quiet: &mut Quiet| quiet.span.requests.push(request("patch", "pods", 1)),
            |quiet: &mut Quiet| quiet.changed.push("Pod a/b".to_owned()),
            |quiet: &mut Quiet| quiet.span.reconciles = 3.0,
        ] {
            let (mut at_rest, mut waiting) = (report(), report());
            spoil(&mut at_rest.idle);
            spoil(&mut waiting.waiting);
            for spoilt in [at_rest, waiting] {
                assert_eq!(spoilt.faults().len(), 1, "{:?}", spoilt.faults());
            }
        }
        let failed = vec!["reconcile_errors_total{error=\"timeout\"} 2".to_owned()];
        assert_eq!(Report { failed, ..report() }.faults().len(), 1);
    }

    #[test]
    fn the_page_leaves_the_lease_out_of_what_a_store_costs() {
        let page = report().to_string();
        for text in [
            "| every store is Ready with all its followers | 9.0 s |",
            "| all 12 objects of kind Pod exist | 4.0 s |",
            "0.15 requests for each reconcile, 3.0 for each store",
            "0 of them writes",
            "| operator | 0.50 | 0.10 | 0.10 | 40 MiB |",
        ] {
            assert!(page.contains(text), "{text} is missing in\n{page}");
        }
    }
}
