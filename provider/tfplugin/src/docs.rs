//! The reference of a provider in Markdown, made from the same structs as its schemas. It writes no files.

use std::fmt::Write;

use crate::cty::Type;
use crate::erased::Signature;
use crate::schema::{Attribute, Nesting, Schema, Shape};
use crate::timeouts::{DefaultTimeouts, Span};
use crate::{Provider, Registry};

/// One page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Where it belongs, as registries lay it out: `resources/vm.md`.
    pub file: String,
    pub markdown: String,
}

/// A page for the provider and for each thing that it offers. A schema that cannot be read has no page: see
/// [`check`](crate::check).
pub fn pages<P: Provider>() -> Vec<Page> {
    let registry = Registry::of::<P>();
    let mut pages = Vec::new();
    let mut add = |folder: &str, name: &str, markdown: String| {
        let short = name
            .strip_prefix(P::NAME)
            .map_or(name, |rest| rest.trim_start_matches('_'));
        pages.push(Page {
            file: format!("{folder}{short}.md"),
            markdown,
        });
    };
    if let Ok(schema) = Schema::of_config::<P::Config>() {
        add(
            "",
            "index",
            thing(&format!("{} provider", P::NAME), &schema),
        );
    }
    for (name, resource) in &registry.resources {
        let Ok(schema) = resource.schema() else {
            continue;
        };
        let mut text = thing(&format!("{name} (resource)"), schema);
        if schema.timeouts.is_some() {
            limits(&mut text, resource.timeouts());
        }
        if let Ok(Some(identity)) = resource.identity_schema() {
            text.push_str("\n## Identity\n\n");
            for attribute in &identity.attributes {
                let need = if attribute.optional {
                    "optional"
                } else {
                    "required"
                };
                let description = one_line(&attribute.description);
                line(
                    &mut text,
                    &format!(
                        "- `{}` ({}, {need}) {description}",
                        attribute.name, attribute.kind
                    ),
                );
            }
        }
        if let Some(id) = resource.import_id() {
            text.push_str("\n## Import\n\n");
            line(&mut text, "```shell");
            line(&mut text, &format!("terraform import {name}.example {id}"));
            line(&mut text, "```");
        }
        add("resources/", name, text);
    }
    for (name, data_source) in &registry.data_sources {
        if let Ok(schema) = data_source.schema() {
            add(
                "data-sources/",
                name,
                thing(&format!("{name} (data source)"), schema),
            );
        }
    }
    for (name, ephemeral) in &registry.ephemerals {
        if let Ok(schema) = ephemeral.schema() {
            add(
                "ephemeral-resources/",
                name,
                thing(&format!("{name} (ephemeral resource)"), schema),
            );
        }
    }
    for (name, function) in &registry.functions {
        if let Ok(signature) = function.signature() {
            add(
                "functions/",
                name,
                function_page(P::NAME, name, function.summary(), signature),
            );
        }
    }
    pages
}

/// Writing into a string does not fail.
fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn thing(title: &str, schema: &Schema) -> String {
    let mut text = format!("# {title}\n");
    if schema.deprecated {
        text.push_str("\n**Deprecated.**\n");
    }
    if !schema.description.is_empty() {
        let _ = write!(text, "\n{}\n", schema.description);
    }
    let sections = [
        ("Required", (|a| a.required) as fn(&Attribute) -> bool),
        ("Optional", |a| a.optional),
        ("Read-only", |a| !a.required && !a.optional),
    ];
    for (title, belongs) in sections {
        let chosen: Vec<_> = schema
            .attributes
            .iter()
            .filter(|attribute| belongs(attribute))
            .collect();
        if !chosen.is_empty() {
            let _ = write!(text, "\n## {title}\n\n");
            for attribute in chosen {
                entry(&mut text, attribute, 0);
            }
        }
    }
    text
}

/// An attribute as an item of a list, and its own attributes as a list in it.
fn entry(text: &mut String, attribute: &Attribute, depth: usize) {
    let mut facts = vec![kind(attribute)];
    if depth > 0 {
        facts.push(if attribute.required {
            "required".to_owned()
        } else if attribute.optional {
            "optional".to_owned()
        } else {
            "read-only".to_owned()
        });
    }
    facts.extend(
        attribute
            .default
            .as_ref()
            .map(|default| format!("default `{default}`")),
    );
    let flags = [
        (attribute.sensitive, "sensitive"),
        (attribute.write_only, "write-only"),
        (
            attribute.requires_replace,
            "changing it replaces the resource",
        ),
        (attribute.deprecated, "deprecated"),
    ];
    facts.extend(
        flags
            .iter()
            .filter(|(set, _)| *set)
            .map(|(_, name)| (*name).to_owned()),
    );
    let mut sentences = vec![one_line(&attribute.description)];
    if attribute.required || attribute.optional {
        sentences.extend(
            attribute
                .constraint()
                .map(|allowed| format!("Must be {allowed}.")),
        );
    }
    if !attribute.deprecation.is_empty() {
        sentences.push(format!("Instead: {}.", attribute.deprecation));
    }
    sentences.retain(|sentence| !sentence.is_empty());
    let indent = "  ".repeat(depth);
    let item = format!(
        "{indent}- `{}` ({}) {}",
        attribute.name,
        facts.join(", "),
        sentences.join(" ")
    );
    line(text, item.trim_end());
    if let Shape::Nested { attributes, .. } = &attribute.shape {
        for attribute in attributes {
            entry(text, attribute, depth + 1);
        }
    }
}

fn kind(attribute: &Attribute) -> String {
    match attribute.nested() {
        None => attribute.kind().to_string(),
        Some((Nesting::Single, _)) => "object".to_owned(),
        Some((Nesting::List, _)) => "list of objects".to_owned(),
        Some((Nesting::Set, _)) => "set of objects".to_owned(),
        Some((Nesting::Map, _)) => "map of objects".to_owned(),
    }
}

fn limits(text: &mut String, limits: DefaultTimeouts) {
    let DefaultTimeouts {
        create,
        read,
        update,
        delete,
    } = limits;
    let _ = write!(
        text,
        "\nWithout `timeouts`, creating may take {}, reading {}, updating {} and deleting {}.\n",
        Span(create),
        Span(read),
        Span(update),
        Span(delete)
    );
}

fn function_page(provider: &str, name: &str, summary: &str, signature: &Signature) -> String {
    let mut text = format!("# {name} (function)\n\n{summary}.\n");
    if !signature.description.is_empty() {
        let _ = write!(text, "\n{}\n", signature.description);
    }
    let mut parameters: Vec<_> = signature
        .parameters
        .iter()
        .map(|parameter| format!("{} {}", parameter.name, parameter.kind))
        .collect();
    if let Some(variadic) = &signature.variadic {
        parameters.push(format!("{} {}...", variadic.name, variadic.kind));
    }
    let returns: &Type = &signature.output;
    let _ = write!(
        text,
        "\n```text\nprovider::{provider}::{name}({}) {returns}\n```\n\n## Arguments\n\n",
        parameters.join(", ")
    );
    for parameter in signature.parameters.iter().chain(&signature.variadic) {
        let nullable = if parameter.nullable {
            ", may be null"
        } else {
            ""
        };
        let mut sentences = vec![one_line(&parameter.description)];
        sentences.extend(
            parameter
                .rules
                .describe()
                .map(|allowed| format!("Must be {allowed}.")),
        );
        let item = format!(
            "- `{}` ({}{nullable}) {}",
            parameter.name,
            parameter.kind,
            sentences.join(" ")
        );
        line(&mut text, item.trim_end());
    }
    text
}
