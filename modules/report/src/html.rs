//! The page: one file, no reference to anything outside it. Every text from outside goes through `esc`.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use crate::clock;
use crate::model::{Cell, Check, Event, Figure, Host, Report, Section, Standing, Verdict, Vm};

/// Upper ends of the heat map's steps in milliseconds; what is slower has the last colour.
const STEPS_MS: [f64; 5] = [0.2, 0.5, 1.0, 5.0, 20.0];

/// The whole page.
pub fn render(report: &Report) -> String {
    let standings = report.standings();
    let mut out = String::new();
    // Writing to a String cannot fail: so it is throughout this file.
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}: {short}</title>\n<style>\n{css}</style>\n</head>\n<body>\n",
        title = esc(&report.title),
        short = esc(&sentence(&report.verdict)),
        css = include_str!("page.css"),
    );
    header(&mut out, report);
    out.push_str("<main>\n");
    if !report.topology.is_empty() {
        hosts(&mut out, &report.topology, &standings);
    }
    let order: Vec<&str> = report
        .topology
        .iter()
        .flat_map(|host| &host.vms)
        .map(|vm| vm.name.as_str())
        .collect();
    let mut anchors = Anchors::default();
    for section in report
        .sections
        .iter()
        .filter(|section| !section.matrix.is_empty())
    {
        matrix(&mut out, section, &order);
    }
    silent(&mut out, report);
    failures(&mut out, report, &mut anchors);
    for section in &report.sections {
        checks(&mut out, section, &mut anchors);
    }
    let _ = write!(
        out,
        "</main>\n<footer>\n<p>Recorded {} on {}: {}, {} {}, {} GiB of memory. The same as data: <a href=\"report.json\"><u>report.json</u></a>.</p>\n\
         </footer>\n<script>\n{}</script>\n</body>\n</html>\n",
        time(&report.recorded_at),
        esc(&report.machine.name),
        esc(&report.machine.kernel),
        report.machine.cpus,
        plural(report.machine.cpus, "processor"),
        report.machine.memory_mib.div_ceil(1024),
        include_str!("page.js"),
    );
    out
}

/// The verdict in words.
fn sentence(verdict: &Verdict) -> String {
    let failed = verdict.checks_failed;
    let pairs = verdict.pairs_failed;
    match (verdict.checks + verdict.pairs, failed, pairs) {
        (0, ..) => "Nothing has been checked yet".to_owned(),
        (_, 0, 0) => "Everything holds".to_owned(),
        (_, _, 0) => format!("{failed} {} failed", plural(failed, "check")),
        (_, 0, _) => format!("{pairs} {} not reached", plural(pairs, "pair")),
        _ => format!(
            "{failed} {} failed, {pairs} {} not reached",
            plural(failed, "check"),
            plural(pairs, "pair")
        ),
    }
}

fn header(out: &mut String, report: &Report) {
    let verdict = &report.verdict;
    let (class, mark) = if verdict.ok {
        ("good", "✓")
    } else if verdict.checks + verdict.pairs == 0 {
        ("soft", "–")
    } else {
        ("bad", "✗")
    };
    let _ = write!(
        out,
        "<header>\n<h1>{}</h1>\n<p class=\"verdict {class}\"><span class=\"mark\" aria-hidden=\"true\">{mark}</span>{}</p>\n<dl class=\"counts\">\n",
        esc(&report.title),
        esc(&sentence(verdict)),
    );
    let mut count = |value: String, what: &str| {
        let _ = writeln!(out, "<div><dt>{what}</dt><dd>{value}</dd></div>");
    };
    if verdict.hosts > 0 {
        count(verdict.hosts.to_string(), plural(verdict.hosts, "host"));
        count(
            verdict.vms.to_string(),
            plural(verdict.vms, "virtual machine"),
        );
    }
    count(
        of(verdict.checks - verdict.checks_failed, verdict.checks),
        "checks passed",
    );
    if verdict.pairs > 0 {
        count(
            of(verdict.pairs - verdict.pairs_failed, verdict.pairs),
            "pairs reached",
        );
    }
    count(time(&report.recorded_at), "recorded");
    out.push_str("</dl>\n</header>\n");
}

/// `1,560`, or `1,558 of 1,560` where they differ.
fn of(good: usize, all: usize) -> String {
    if good == all {
        thousands(all)
    } else {
        format!("{} of {}", thousands(good), thousands(all))
    }
}

fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn hosts(out: &mut String, topology: &[Host], standings: &BTreeMap<&str, Standing>) {
    out.push_str("<section>\n<div class=\"head\"><h2>Hosts</h2></div>\n<div class=\"hosts\">\n");
    for host in topology {
        let own = standings
            .get(host.name.as_str())
            .copied()
            .unwrap_or_default();
        let tally = if own.failed() {
            format!("<span class=\"bad\">✗ {}</span>", tally(own))
        } else if own.checks > 0 {
            format!("<span class=\"good\">✓ {}</span>", tally(own))
        } else {
            String::new()
        };
        let _ = writeln!(
            out,
            "<div class=\"host\">\n<h3><span>{}</span>{tally}</h3>",
            esc(&host.name)
        );
        for machine in &host.vms {
            let standing = standings.get(machine.name.as_str()).copied();
            vm(out, machine, standing.unwrap_or_default());
        }
        out.push_str("</div>\n");
    }
    out.push_str("</div>\n</section>\n");
}

fn vm(out: &mut String, vm: &Vm, standing: Standing) {
    let (class, mark, word) = if standing.failed() {
        (" bad", "✗", "failed")
    } else if standing.checks > 0 {
        (" good", "✓", "passed")
    } else {
        ("", "–", "not checked")
    };
    let name = esc(&vm.name);
    let name = if standing.checks > 0 {
        format!("<a href=\"#{}\">{name}</a>", anchor(&vm.name))
    } else {
        name
    };
    let title = if vm.groups.is_empty() {
        String::new()
    } else {
        format!(" title=\"{}\"", esc(&vm.groups.join(", ")))
    };
    let _ = writeln!(
        out,
        "<div class=\"vm{class}\"{title}><span class=\"mark\" role=\"img\" aria-label=\"{word}\">{mark}</span><span class=\"name\">{name}</span>"
    );
    if !vm.role.is_empty() {
        let _ = writeln!(out, "<span class=\"role\">{}</span>", esc(&vm.role));
    }
    let _ = write!(
        out,
        "<span class=\"facts\"><span class=\"mono\">{}</span>",
        esc(&vm.address)
    );
    if !vm.state.is_empty() {
        let _ = write!(out, "<span>{}</span>", esc(&vm.state));
    }
    let _ = writeln!(
        out,
        "<span class=\"tally\">{}</span></span></div>",
        tally(standing)
    );
}

fn tally(standing: Standing) -> String {
    let mut parts = Vec::new();
    if standing.checks_failed > 0 {
        parts.push(format!(
            "{} of {} failed",
            standing.checks_failed, standing.checks
        ));
    } else if standing.checks > 0 {
        parts.push(format!(
            "{} {}",
            standing.checks,
            plural(standing.checks, "check")
        ));
    }
    if standing.pairs_failed > 0 {
        parts.push(format!(
            "{} {} not reached",
            standing.pairs_failed,
            plural(standing.pairs_failed, "pair")
        ));
    }
    if parts.is_empty() {
        "not checked".to_owned()
    } else {
        parts.join(", ")
    }
}

fn matrix(out: &mut String, section: &Section, order: &[&str]) {
    let names = names_in_order(&section.matrix, order);
    let cells: HashMap<(&str, &str), &Cell> = section
        .matrix
        .iter()
        .map(|cell| ((cell.from.as_str(), cell.to.as_str()), cell))
        .collect();
    let reached = section.matrix.iter().filter(|cell| cell.ok).count();
    let slowest = section
        .matrix
        .iter()
        .filter_map(|cell| cell.rtt_ms)
        .reduce(f64::max);
    let _ = write!(
        out,
        "<section>\n<div class=\"head\"><h2>Who reaches whom</h2><span class=\"soft\">{} · {} of {} pairs{} · {}</span></div>\n",
        esc(&section.name),
        thousands(reached),
        thousands(section.matrix.len()),
        slowest
            .map(|ms| format!(" · slowest {} ms", number(ms)))
            .unwrap_or_default(),
        time(&section.recorded_at),
    );
    // A cell needs 1.1rem to be hit by a finger's neighbourhood; below that the table scrolls in its own box.
    let _ = write!(
        out,
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Matrix of round-trip times\">\n\
         <table class=\"heat\" style=\"min-width:calc(10rem + {} * 1.2rem)\">\n<thead><tr><th scope=\"row\" class=\"corner\">from ↓ to →</th>",
        names.len()
    );
    for name in &names {
        let _ = write!(out, "<th scope=\"col\"><span>{}</span></th>", esc(name));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for from in &names {
        let _ = write!(
            out,
            "<tr><th scope=\"row\" title=\"{0}\">{0}</th>",
            esc(from)
        );
        for to in &names {
            match cells.get(&(*from, *to)) {
                Some(cell) => {
                    let (class, glyph) = look(cell);
                    let _ = write!(
                        out,
                        "<td class=\"{class}\" title=\"{}\">{glyph}</td>",
                        esc(&describe(cell))
                    );
                }
                None if from == to => out.push_str("<td></td>"),
                None => {
                    let _ = write!(
                        out,
                        "<td class=\"hn\" title=\"{} → {}: not probed\">·</td>",
                        esc(from),
                        esc(to)
                    );
                }
            }
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n</div>\n<p class=\"picked\" aria-live=\"polite\"></p>\n");
    legend(out);
    out.push_str("</section>\n");
}

/// Failed pairs by the machine they are laid to the charge of, the worst first.
fn silent(out: &mut String, report: &Report) {
    let mut charged: Vec<(&str, Vec<&Cell>)> = report.charged().into_iter().collect();
    if charged.is_empty() {
        return;
    }
    charged.sort_by_key(|(_, cells)| std::cmp::Reverse(cells.len()));
    let _ = writeln!(
        out,
        "<section>\n<div class=\"head\"><h2 class=\"bad\">Not reached</h2><span class=\"soft\">{} {}, by the machine that fails with most others</span></div>\n<div class=\"checks\">",
        thousands(report.verdict.pairs_failed),
        plural(report.verdict.pairs_failed, "pair")
    );
    for (name, cells) in charged {
        let open = if cells.len() <= 8 { " open" } else { "" };
        let _ = write!(
            out,
            "<details class=\"failed\"{open}><summary><span class=\"mark bad\">✗</span><span class=\"what\"><strong>{}</strong></span>\
             <span class=\"tally\">{} {}</span></summary>\n<pre>",
            esc(name),
            cells.len(),
            plural(cells.len(), "pair")
        );
        for cell in cells {
            let _ = writeln!(out, "{}", esc(&describe(cell)));
        }
        out.push_str("</pre></details>\n");
    }
    out.push_str("</div>\n</section>\n");
}

/// First the topology's order, then whoever else takes part.
fn names_in_order<'a>(cells: &'a [Cell], order: &[&'a str]) -> Vec<&'a str> {
    let mut taking_part: Vec<&str> = cells
        .iter()
        .flat_map(|cell| [cell.from.as_str(), cell.to.as_str()])
        .collect();
    taking_part.sort_unstable();
    taking_part.dedup();
    let mut names: Vec<&str> = order
        .iter()
        .copied()
        .filter(|name| taking_part.binary_search(name).is_ok())
        .collect();
    let others: Vec<&str> = taking_part
        .into_iter()
        .filter(|name| !order.contains(name))
        .collect();
    names.extend(others);
    names
}

/// Colour class and a glyph, so that the colour is not alone.
fn look(cell: &Cell) -> (String, &'static str) {
    if !cell.ok {
        return (
            "hx".to_owned(),
            if cell.tcp_ok || cell.loss >= 100.0 {
                "✗"
            } else {
                "T"
            },
        );
    }
    if cell.loss > 0.0 {
        return ("hp".to_owned(), "!");
    }
    match cell.rtt_ms {
        Some(rtt) => {
            let step = STEPS_MS
                .iter()
                .position(|end| rtt <= *end)
                .unwrap_or(STEPS_MS.len());
            (format!("h{step}"), "")
        }
        None => ("hn".to_owned(), ""),
    }
}

fn describe(cell: &Cell) -> String {
    let mut text = format!("{} → {}: {} % loss", cell.from, cell.to, number(cell.loss));
    if let Some(rtt) = cell.rtt_ms {
        let _ = write!(text, ", {} ms", number(rtt));
    }
    text.push_str(if cell.tcp_ok {
        ", TCP ok"
    } else {
        ", TCP failed"
    });
    text
}

/// At most three decimals, no trailing zeros.
fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn legend(out: &mut String) {
    out.push_str("<div class=\"legend\"><span>Average round trip, ms:</span>");
    let mut low = String::new();
    for (step, end) in STEPS_MS.iter().enumerate() {
        let _ = write!(
            out,
            "<span><i class=\"h{step}\"></i>{}</span>",
            if step == 0 {
                format!("up to {}", number(*end))
            } else {
                format!("{low}–{}", number(*end))
            }
        );
        low = number(*end);
    }
    let _ = writeln!(
        out,
        "<span><i class=\"h5\"></i>over {low}</span><span><i class=\"hp\">!</i>some loss</span><span><i class=\"hx\">✗</i>no answer</span>\
         <span><i class=\"hx\">T</i>TCP failed</span><span><i class=\"hn\">·</i>not probed</span></div>"
    );
}

/// Which subjects have their anchor already: it is on the first check that shows them.
#[derive(Default)]
struct Anchors<'a>(std::collections::HashSet<&'a str>);

impl<'a> Anchors<'a> {
    fn id(&mut self, subject: &'a str) -> String {
        if self.0.insert(subject) {
            format!(" id=\"{}\"", anchor(subject))
        } else {
            String::new()
        }
    }
}

/// A fragment identifier of letters, digits and hyphens; other bytes in hexadecimal.
fn anchor(subject: &str) -> String {
    let mut text = String::from("of-");
    for byte in subject.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "_{byte:02x}");
        }
    }
    text
}

fn failures<'a>(out: &mut String, report: &'a Report, anchors: &mut Anchors<'a>) {
    let failed: Vec<(&Section, &Check)> = report
        .sections
        .iter()
        .flat_map(|section| section.checks.iter().map(move |check| (section, check)))
        .filter(|(_, check)| !check.ok)
        .collect();
    if failed.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "<section>\n<div class=\"head\"><h2 class=\"bad\">Failed</h2><span class=\"soft\">{} {}</span></div>\n<div class=\"checks\">",
        thousands(failed.len()),
        plural(failed.len(), "check")
    );
    for (section, check) in failed {
        let _ = writeln!(
            out,
            "<details class=\"failed\" open{}><summary><span class=\"mark bad\">✗</span><span class=\"what\"><strong>{}</strong> · {}</span>\
             <span class=\"tally\">{}{}</span></summary>\n<pre>{}</pre></details>",
            anchors.id(&check.subject),
            esc(&check.subject),
            esc(&check.name),
            esc(&section.name),
            check
                .seconds
                .map(|s| format!(" · {} s", number(s)))
                .unwrap_or_default(),
            evidence(check),
        );
    }
    out.push_str("</div>\n</section>\n");
}

/// What was measured, what passed, one line for each name with its subjects below, and the timeline.
fn checks<'a>(out: &mut String, section: &'a Section, anchors: &mut Anchors<'a>) {
    if section.checks.is_empty() && section.figures.is_empty() && section.timeline.is_empty() {
        return;
    }
    let failed = section.checks.iter().filter(|check| !check.ok).count();
    let _ = writeln!(
        out,
        "<section>\n<div class=\"head\"><h2>{}</h2><span class=\"soft\">{}{}</span></div>",
        esc(&section.name),
        if section.checks.is_empty() {
            String::new()
        } else {
            format!(
                "{} {} passed · ",
                of(section.checks.len() - failed, section.checks.len()),
                plural(section.checks.len(), "check")
            )
        },
        time(&section.recorded_at),
    );
    figures(out, &section.figures);
    let mut names: Vec<&str> = Vec::new();
    let mut groups: HashMap<&str, Vec<&Check>> = HashMap::new();
    for check in &section.checks {
        let group = groups.entry(&check.name).or_default();
        if group.is_empty() {
            names.push(&check.name);
        }
        group.push(check);
    }
    // Failing ones first, else as they were recorded.
    names.sort_by_key(|name| groups[name].iter().all(|check| check.ok));
    if !names.is_empty() {
        out.push_str("<div class=\"checks\">\n");
        for name in names {
            group(out, name, &groups[name], anchors);
        }
        out.push_str("</div>\n");
    }
    timeline(out, &section.timeline);
    out.push_str("</section>\n");
}

fn group<'a>(out: &mut String, name: &str, checks: &[&'a Check], anchors: &mut Anchors<'a>) {
    let good = checks.iter().filter(|check| check.ok).count();
    let (mark, class) = if good == checks.len() {
        ("✓", "good")
    } else {
        ("✗", "bad")
    };
    let seconds: f64 = checks.iter().filter_map(|check| check.seconds).sum();
    let _ = writeln!(
        out,
        "<details><summary><span class=\"mark {class}\">{mark}</span><span class=\"what\">{}</span><span class=\"tally\">{}{}</span></summary>\n<dl class=\"each\">",
        esc(name),
        if checks.len() == 1 {
            esc(&checks[0].subject)
        } else {
            format!("{good} of {}", checks.len())
        },
        if seconds > 0.0 {
            format!(" · {} s", number(seconds))
        } else {
            String::new()
        },
    );
    let mut sorted = checks.to_vec();
    sorted.sort_by_key(|check| check.ok);
    for check in sorted {
        let (mark, class) = if check.ok {
            ("✓", "good")
        } else {
            ("✗", "bad")
        };
        let _ = writeln!(
            out,
            "<dt{}><span class=\"mark {class}\">{mark}</span> {}</dt><dd class=\"mono\">{}</dd>",
            anchors.id(&check.subject),
            esc(&check.subject),
            evidence(check)
        );
    }
    out.push_str("</dl></details>\n");
}

fn evidence(check: &Check) -> String {
    if check.evidence.trim().is_empty() {
        "<span class=\"soft\">no evidence recorded</span>".to_owned()
    } else {
        esc(check.evidence.trim_end())
    }
}

fn figures(out: &mut String, figures: &[Figure]) {
    if figures.is_empty() {
        return;
    }
    out.push_str("<dl class=\"counts figures\">\n");
    for figure in figures {
        let _ = writeln!(
            out,
            "<div><dt>{}</dt><dd>{}{}{}</dd></div>",
            esc(&figure.name),
            number(figure.value),
            if figure.unit.is_empty() { "" } else { " " },
            esc(&figure.unit)
        );
    }
    out.push_str("</dl>\n");
}

/// Each event with the time since the first one, where both say when in RFC 3339.
fn timeline(out: &mut String, events: &[Event]) {
    if events.is_empty() {
        return;
    }
    let mut events: Vec<&Event> = events.iter().collect();
    events.sort_by(|a, b| a.at.cmp(&b.at));
    let begin = clock::seconds(&events[0].at);
    out.push_str("<ol class=\"time\">\n");
    for event in events {
        let since = begin.zip(clock::seconds(&event.at));
        let (shown, title) = match since {
            Some((begin, now)) => (
                format!("+{:.1} s", now - begin),
                format!(" title=\"{}\"", esc(&event.at)),
            ),
            None => (esc(&event.at), String::new()),
        };
        let _ = write!(
            out,
            "<li><span class=\"soft mono at\"{title}>{shown}</span> <span class=\"what\">{}</span>",
            esc(&event.what)
        );
        if !event.detail.is_empty() {
            let _ = write!(out, "<div class=\"detail\">{}</div>", esc(&event.detail));
        }
        out.push_str("</li>\n");
    }
    out.push_str("</ol>\n");
}

/// `2026-11-22 14:03 UTC` from RFC 3339; anything else as it is.
fn time(rfc3339: &str) -> String {
    let bytes = rfc3339.as_bytes();
    let shown = match (rfc3339.get(..10), rfc3339.get(11..16)) {
        (Some(date), Some(minute)) if rfc3339.ends_with('Z') && bytes[10] == b'T' => {
            format!("{date} {minute} UTC")
        }
        _ => rfc3339.to_owned(),
    };
    format!("<time datetime=\"{}\">{}</time>", esc(rfc3339), esc(&shown))
}

fn plural(count: usize, word: &'static str) -> &'static str {
    match (count, word) {
        (1, word) => word,
        (_, "check") => "checks",
        (_, "pair") => "pairs",
        (_, "host") => "hosts",
        (_, "virtual machine") => "virtual machines",
        (_, "processor") => "processors",
        (_, word) => word,
    }
}

/// Text for an element or a quoted attribute.
fn esc(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Not allowed in HTML; output of a terminal may hold them.
            c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
