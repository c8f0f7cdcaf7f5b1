//! `provider::ondol::base_packages`: what an image holds before anything is asked for, so that a mirror can hold it too.

use ondol_image::{Distribution, Recipe};
use schemars::JsonSchema;
use serde::Deserialize;
use tfplugin::{Function, FunctionError};

/// The packages that `ondol_golden_image` puts into every image of a distribution, beside the distribution's essential and
/// required ones. A mirror that such an image is built from must hold them: add them to the `packages` of `ondol_apt_mirror`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Arguments {
    /// `debian` or `ubuntu`.
    pub distribution: String,
}

pub struct BasePackagesFunction;

impl Function for BasePackagesFunction {
    type Arguments = Arguments;
    type Output = Vec<String>;

    const NAME: &'static str = "base_packages";
    const SUMMARY: &'static str =
        "Lists the packages that every golden image of a distribution holds";

    fn call(arguments: Arguments) -> Result<Vec<String>, FunctionError> {
        let distribution = match arguments.distribution.as_str() {
            "debian" => Distribution::Debian,
            "ubuntu" => Distribution::Ubuntu,
            other => {
                return Err(FunctionError::argument(
                    "distribution",
                    format!("\"{other}\" is neither \"debian\" nor \"ubuntu\""),
                ));
            }
        };
        let packages = Recipe::base_packages(distribution);
        Ok(packages.into_iter().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(distribution: &str) -> Result<Vec<String>, FunctionError> {
        BasePackagesFunction::call(Arguments {
            distribution: distribution.to_owned(),
        })
    }

    #[test]
    fn each_distribution_has_its_own() {
        let holds = |distribution, package: &str| {
            call(distribution)
                .unwrap()
                .iter()
                .any(|other| other == package)
        };
        assert!(holds("debian", "openssh-server") && holds("ubuntu", "openssh-server"));
        assert!(holds("debian", "systemd-resolved") && !holds("ubuntu", "systemd-resolved"));
        assert!(call("Debian").is_err());
    }
}
