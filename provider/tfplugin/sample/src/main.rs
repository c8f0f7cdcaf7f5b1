//! A provider with one small resource for each feature of the SDK. Its machine is a folder: a resource is a file in it.
//! The acceptance tests drive it with the real Terraform; nobody else should.

mod faulty;
mod file;
mod functions;
mod machine;
mod moved;
mod nested;
mod numbers;
mod secret;
mod slow;
mod sources;
mod token;
mod upgraded;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use machine::Machine;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{
    Attr, CancellationToken, Diagnostic, Diagnostics, Provider, Registry, Transport, attribute,
    path,
};

struct Sample;

/// Files as resources.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Config {
    /// The folder that stands for the machine. It must exist.
    #[schemars(transform = attribute::required, length(min = 1))]
    directory: Attr<String>,
    /// What functions and resources say first.
    #[schemars(extend("default" = "hello"))]
    greeting: Attr<String>,
}

impl Provider for Sample {
    type Config = Config;
    type Context = Machine;

    const NAME: &'static str = "sample";

    fn validate(config: &Config, diagnostics: &mut Diagnostics) {
        if config.greeting.as_str() == Some("goodbye") {
            diagnostics.error(
                path!["greeting"],
                "That is no greeting",
                "Say something else.",
            );
        }
    }

    async fn configure(
        &self,
        config: Config,
        _: CancellationToken,
    ) -> Result<Arc<Machine>, Diagnostics> {
        let directory = PathBuf::from(config.directory.require(path!["directory"])?);
        if !directory.is_dir() {
            return Err(Diagnostic::error("The folder does not exist")
                .detail(format!(
                    "{} is not a folder. Make it first.",
                    directory.display()
                ))
                .at(path!["directory"])
                .into());
        }
        Ok(Arc::new(Machine::new(
            directory,
            config.greeting.unwrap_or_default(),
        )))
    }

    fn register(registry: &mut Registry<Machine>) {
        registry
            .resource::<file::File>()
            .resource::<nested::Nested>()
            .resource::<numbers::Numbers>()
            .resource::<secret::Secret>()
            .resource::<upgraded::Upgraded>()
            .resource::<moved::Moved>()
            .resource::<faulty::Faulty>()
            .resource::<slow::Slow>()
            .data_source::<sources::Files>()
            .ephemeral::<token::Token>()
            .function::<functions::Join>()
            .function::<functions::Port>();
    }
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("docs") {
        for page in tfplugin::docs::pages::<Sample>() {
            println!("<!-- {} -->\n{}", page.file, page.markdown);
        }
        return ExitCode::SUCCESS;
    }
    // Windows has no unix sockets for plugins; this lets the tests take its way here.
    let transport = match std::env::var("SAMPLE_TRANSPORT").as_deref() {
        Ok("tcp") => Transport::Tcp,
        _ => Transport::native(),
    };
    tfplugin::serve_on(Sample, transport)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_schema_can_be_read() {
        assert_eq!(tfplugin::check::<super::Sample>(), Ok(()));
    }

    #[test]
    fn the_reference_has_a_page_for_everything_and_says_what_is_allowed() {
        let pages = tfplugin::docs::pages::<super::Sample>();
        let files: Vec<_> = pages.iter().map(|page| page.file.as_str()).collect();
        for file in [
            "index.md",
            "data-sources/files.md",
            "ephemeral-resources/token.md",
            "functions/port.md",
        ] {
            assert!(files.contains(&file), "{file} is not in {files:?}");
        }
        let page = pages
            .iter()
            .find(|page| page.file == "resources/nested.md")
            .expect("a page");
        let expected = "- `map` (map of objects)\n  - `size_mib` (number, required) How large it is. Must be a whole \
                        number, at least 1.\n  - `format` (string, optional, default `\"vdi\"`, changing it replaces \
                        the resource) How it is stored. Another format is another machine.\n  - `uuid` (string, \
                        read-only) What the machine calls it.\n";
        assert!(page.markdown.contains(expected), "{}", page.markdown);
    }
}
