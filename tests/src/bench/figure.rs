//! A measured figure, its peer's, and how both are printed.

use serde_json::{Value, json};

/// One figure. Smaller is better in all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    pub name: String,
    pub value: f64,
    /// Of `value` and of the peer's: `ms`, `s` or `MiB`.
    pub unit: &'static str,
    /// What it is compared with, measured in the same run.
    pub peer: Option<(String, f64)>,
}

impl Figure {
    pub fn alone(name: &str, value: f64, unit: &'static str) -> Self {
        Figure {
            name: name.to_owned(),
            value,
            unit,
            peer: None,
        }
    }

    pub fn against(
        name: &str,
        value: f64,
        unit: &'static str,
        peer: &str,
        peer_value: f64,
    ) -> Self {
        Figure {
            peer: Some((peer.to_owned(), peer_value)),
            ..Figure::alone(name, value, unit)
        }
    }

    fn ratio(&self) -> Option<f64> {
        self.peer.as_ref().map(|(_, value)| self.value / value)
    }

    pub fn json(&self, machine: &str) -> Value {
        json!({
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "peer": self.peer.as_ref().map(|(name, _)| name),
            "peer_value": self.peer.as_ref().map(|(_, value)| value),
            "ratio": self.ratio(),
            "machine": machine,
        })
    }

    pub fn table(figures: &[Figure], machine: &str) -> String {
        let width = figures
            .iter()
            .map(|figure| figure.name.len())
            .max()
            .unwrap_or(0);
        let mut table = format!("{machine}\n");
        for figure in figures {
            let ours = format!("{:.1} {}", figure.value, figure.unit);
            table.push_str(&format!("{:<width$}  {ours:>12}", figure.name));
            if let (Some((peer, value)), Some(ratio)) = (&figure.peer, figure.ratio()) {
                table.push_str(&format!(
                    "  {ratio:.2} of {peer} ({value:.1} {})",
                    figure.unit
                ));
            }
            table.push('\n');
        }
        table
    }
}

/// The middle of some measurements, in their own unit.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_with_a_peer_has_a_ratio_and_one_without_has_nulls() {
        let figure = Figure::against("task", 50.0, "ms", "ping", 200.0);
        assert_eq!(figure.json("m")["ratio"], 0.25);
        let alone = Figure::alone("plan", 1.5, "s").json("m");
        assert_eq!(
            (&alone["peer"], &alone["ratio"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(
            Figure::table(&[figure], "m"),
            "m\ntask       50.0 ms  0.25 of ping (200.0 ms)\n"
        );
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert!(median(vec![]).is_nan());
    }
}
