//! Checks a configuration against its schema: what schemars' validations say, read-only attributes, deprecated ones, and
//! write-only ones that Terraform is too old for. What several attributes mean together is the resource's own `validate`.

use crate::cty::Value;
use crate::path::{Path, Step};
use crate::schema::{Attribute, Nesting, Violation};
use crate::{Diagnostic, Diagnostics};

/// Checks every value that is set. Null and unknown values pass.
pub(crate) fn check(
    attributes: &[Attribute],
    config: &Value,
    write_only_allowed: bool,
) -> Diagnostics {
    let mut check = Check {
        path: Path::root(),
        write_only_allowed,
        diagnostics: Diagnostics::new(),
    };
    check.object(attributes, config);
    check.diagnostics
}

struct Check {
    path: Path,
    write_only_allowed: bool,
    diagnostics: Diagnostics,
}

impl Check {
    fn object(&mut self, attributes: &[Attribute], object: &Value) {
        for attribute in attributes {
            if let Some(value) = object.get(&attribute.name).filter(|value| !value.is_null()) {
                self.path.push(Step::Attribute(attribute.name.clone()));
                self.attribute(attribute, value);
                self.path.pop();
            }
        }
    }

    fn attribute(&mut self, attribute: &Attribute, value: &Value) {
        let path = &self.path;
        if attribute.computed && !attribute.optional {
            // Terraform leaves this to the provider.
            self.diagnostics.push(
                Diagnostic::error(format!("{path} is read-only"))
                    .detail(format!(
                        "Only the provider sets {path}. Remove it from the configuration."
                    ))
                    .at(path.clone()),
            );
            return;
        }
        if attribute.deprecated {
            let detail = match attribute.deprecation.as_str() {
                "" => format!("{path} is deprecated."),
                instead => format!("{path} is deprecated: {instead}."),
            };
            self.diagnostics.push(
                Diagnostic::warning(format!("{path} is deprecated"))
                    .detail(detail)
                    .at(path.clone()),
            );
        }
        if attribute.write_only && !self.write_only_allowed {
            self.diagnostics.push(
                Diagnostic::error(format!("{path} needs Terraform 1.11"))
                    .detail(format!(
                        "{path} is write-only, which this version of Terraform does not know."
                    ))
                    .at(path.clone()),
            );
        }
        let mut violations = Vec::new();
        attribute
            .rules
            .check(value, &mut self.path.clone(), &mut violations);
        let hidden = attribute.sensitive || attribute.write_only;
        self.diagnostics
            .extend(violations.iter().map(|violation| refuse(violation, hidden)));
        if let Some((nesting, attributes)) = attribute.nested() {
            self.nested(nesting, attributes, value);
        }
    }

    fn nested(&mut self, nesting: Nesting, attributes: &[Attribute], value: &Value) {
        match (nesting, value) {
            (Nesting::Single, object) => self.object(attributes, object),
            (_, Value::List(elements)) => {
                for (index, element) in elements.iter().enumerate() {
                    self.element(Step::Index(index as u64), attributes, element);
                }
            }
            (_, Value::Set(elements)) => {
                for element in elements {
                    self.element(Step::Element, attributes, element);
                }
            }
            (_, Value::Map(elements)) => {
                for (key, element) in elements {
                    self.element(Step::Key(key.clone()), attributes, element);
                }
            }
            _ => {}
        }
    }

    fn element(&mut self, step: Step, attributes: &[Attribute], element: &Value) {
        self.path.push(step);
        self.object(attributes, element);
        self.path.pop();
    }
}

fn refuse(violation: &Violation, hidden: bool) -> Diagnostic {
    let Violation {
        path,
        allowed,
        found,
    } = violation;
    let found = if hidden {
        "something else (not shown)"
    } else {
        found
    };
    Diagnostic::error(format!("Invalid value for {path}"))
        .detail(format!("{path} must be {allowed}, but it is {found}."))
        .at(path.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::schema::Schema;
    use crate::{Attr, Key, Set, attribute, bridge, path};

    #[derive(Default, Serialize, Deserialize, JsonSchema)]
    struct Disk {
        #[schemars(range(min = 1))]
        size_mib: Attr<u64>,
    }

    #[derive(Default, Serialize, Deserialize, JsonSchema)]
    struct Vm {
        #[schemars(length(min = 1, max = 15), pattern("^[a-z]+$"))]
        name: Attr<String>,
        disks: Attr<BTreeMap<String, Disk>>,
        set: Attr<Set<Disk>>,
        #[schemars(length(max = 2))]
        tags: Attr<Vec<String>>,
        #[schemars(inner(length(min = 2)))]
        words: Attr<Vec<String>>,
        #[schemars(transform = attribute::deprecated("use `name`"))]
        title: Attr<String>,
        #[schemars(length(min = 8), transform = attribute::write_only)]
        password: Attr<String>,
        #[schemars(transform = attribute::computed)]
        id: Attr<String>,
    }

    fn check_vm(vm: Vm, write_only_allowed: bool) -> Vec<(Path, String)> {
        let schema = Schema::of::<Vm>(0).expect("a schema");
        let value = bridge::to_value_of(&vm, schema.kind()).expect("a value");
        check(&schema.attributes, &value, write_only_allowed)
            .into_iter()
            .map(|diagnostic| {
                (
                    diagnostic.path,
                    format!("{} {}", diagnostic.summary, diagnostic.detail),
                )
            })
            .collect()
    }

    #[test]
    fn every_constraint_answers_with_its_path() {
        let disk = |size_mib| Disk {
            size_mib: Attr::Known(size_mib),
        };
        let mut in_set = path!["set"];
        in_set.push(Step::Element);
        in_set.push("size_mib".into());
        let vm = Vm {
            name: "DB".into(),
            disks: BTreeMap::from([("data".to_owned(), disk(0))]).into(),
            set: Set(vec![disk(0)]).into(),
            tags: vec![String::new(); 3].into(),
            words: vec!["yes".to_owned(), "n".to_owned()].into(),
            title: "x".into(),
            password: "secret".into(),
            id: "mine".into(),
        };
        let found = check_vm(vm, true);
        let paths: Vec<_> = found.iter().map(|(path, _)| path.clone()).collect();
        assert_eq!(
            paths,
            [
                path!["name"],
                path!["disks", Key("data"), "size_mib"],
                in_set,
                path!["tags"],
                path!["words", 1usize],
                path!["title"],
                path!["password"],
                path!["id"],
            ]
        );
        assert!(
            found[0]
                .1
                .contains("text that matches ^[a-z]+$, but it is \"DB\""),
            "{found:?}"
        );
        assert!(found[5].1.contains("use `name`"), "{found:?}");
        assert!(!found[6].1.contains("secret"), "{found:?}");
    }

    #[test]
    fn null_and_unknown_trip_nothing() {
        assert_eq!(check_vm(Vm::default(), true), []);
        let unknown = Vm {
            name: Attr::Unknown,
            disks: Attr::Unknown,
            set: Set(vec![Disk {
                size_mib: Attr::Unknown,
            }])
            .into(),
            tags: Attr::Unknown,
            words: Attr::Unknown,
            title: Attr::Null,
            password: Attr::Unknown,
            id: Attr::Null,
        };
        assert_eq!(check_vm(unknown, true), []);
    }

    #[test]
    fn a_write_only_value_needs_a_terraform_that_knows_them() {
        let vm = Vm {
            password: "long enough".into(),
            ..Vm::default()
        };
        assert_eq!(check_vm(vm, false)[0].0, path!["password"]);
    }
}
