//! Functions, for the registry.

use std::marker::PhantomData;

use super::{Lazy, Read};
use crate::cty::{Type, Value};
use crate::path::{Path, Step};
use crate::schema::{PlainAttribute, Schema, SchemaError};
use crate::{Function, bridge};

/// Parameters and result of a function.
pub(crate) struct Signature {
    pub(crate) description: String,
    pub(crate) parameters: Vec<PlainAttribute>,
    /// Takes all arguments after the others; its type is that of one of them.
    pub(crate) variadic: Option<PlainAttribute>,
    pub(crate) output: Type,
}

/// Why a function has no result, and by which argument's fault.
#[derive(Debug, PartialEq)]
pub(crate) struct CallError {
    pub(crate) argument: Option<i64>,
    pub(crate) text: String,
}

pub(crate) trait AnyFunction: Send + Sync {
    fn summary(&self) -> &'static str;
    fn signature(&self) -> Read<&Signature>;
    fn call(&self, arguments: Vec<Value>) -> Result<Value, CallError>;
}

pub(crate) struct FunctionEntry<F> {
    signature: Lazy<Signature>,
    kind: PhantomData<fn() -> F>,
}

impl<F: Function> FunctionEntry<F> {
    pub(crate) fn new() -> Self {
        Self {
            signature: Lazy::new(),
            kind: PhantomData,
        }
    }
}

impl Signature {
    fn of<F: Function>() -> Read<Self> {
        let mut parameters = Schema::plain_attributes::<F::Arguments>()?;
        let variadic = match parameters.iter().position(|parameter| parameter.variadic) {
            None => None,
            Some(at) if at + 1 == parameters.len() => {
                let mut last = parameters.remove(at);
                let Type::List(element) = last.kind else {
                    return Err(wrong::<F>(
                        &last.name,
                        "a variadic parameter must be a list",
                    ));
                };
                last.kind = *element;
                Some(last)
            }
            Some(at) => {
                return Err(wrong::<F>(
                    &parameters[at].name,
                    "only the last parameter can be variadic",
                ));
            }
        };
        Ok(Self {
            description: Schema::description_of::<F::Arguments>(),
            parameters,
            variadic,
            output: Schema::plain_type::<F::Output>()?,
        })
    }

    /// The type of the argument at this position.
    pub(crate) fn kind_at(&self, position: usize) -> Option<&Type> {
        let parameter = self.parameters.get(position).or(self.variadic.as_ref());
        parameter.map(|parameter| &parameter.kind)
    }

    fn position_of(&self, name: &str) -> Option<i64> {
        let named = self
            .parameters
            .iter()
            .position(|parameter| parameter.name == name);
        let last = || {
            let variadic = self
                .variadic
                .as_ref()
                .filter(|parameter| parameter.name == name);
            variadic.map(|_| self.parameters.len())
        };
        named
            .or_else(last)
            .and_then(|position| i64::try_from(position).ok())
    }

    /// The arguments as the struct that the function takes.
    fn object(&self, arguments: Vec<Value>) -> Result<Value, CallError> {
        let mut arguments = arguments.into_iter();
        let mut object = std::collections::BTreeMap::new();
        for parameter in &self.parameters {
            object.insert(parameter.name.clone(), arguments.next().unwrap_or_default());
        }
        if let Some(variadic) = &self.variadic {
            object.insert(variadic.name.clone(), Value::List(arguments.collect()));
        }
        for parameter in self.parameters.iter().chain(&self.variadic) {
            let mut violations = Vec::new();
            let mut path = Path::root();
            path.push(Step::Attribute(parameter.name.clone()));
            parameter
                .rules
                .check(&object[&parameter.name], &mut path, &mut violations);
            if let Some(violation) = violations.first() {
                return Err(self.error_at(
                    &violation.path,
                    format!(
                        "must be {}, but it is {}",
                        violation.allowed, violation.found
                    ),
                ));
            }
        }
        Ok(Value::Map(object))
    }

    /// An error about a part of the arguments. An element of the variadic parameter is an argument of its own.
    fn error_at(&self, path: &Path, text: String) -> CallError {
        let argument = match path.steps() {
            [Step::Attribute(name), rest @ ..] => self.position_of(name).map(|position| {
                let is_variadic = self
                    .variadic
                    .as_ref()
                    .is_some_and(|parameter| parameter.name == *name);
                match rest {
                    [Step::Index(index), ..] if is_variadic => {
                        position + i64::try_from(*index).unwrap_or_default()
                    }
                    _ => position,
                }
            }),
            _ => None,
        };
        let text = if path.is_root() {
            text
        } else {
            format!("{path}: {text}")
        };
        CallError { argument, text }
    }
}

fn wrong<F: Function>(parameter: &str, message: &str) -> SchemaError {
    SchemaError {
        model: F::NAME.to_owned(),
        field: Path::root().child(parameter),
        message: message.to_owned(),
    }
}

impl<F: Function> AnyFunction for FunctionEntry<F> {
    fn summary(&self) -> &'static str {
        F::SUMMARY
    }

    fn signature(&self) -> Read<&Signature> {
        self.signature.get(Signature::of::<F>)
    }

    fn call(&self, arguments: Vec<Value>) -> Result<Value, CallError> {
        let signature = self.signature().map_err(|error| CallError {
            argument: None,
            text: error.to_string(),
        })?;
        let object = signature.object(arguments)?;
        let arguments = bridge::from_value(&object)
            .map_err(|error| signature.error_at(&error.path, error.message.clone()))?;
        let output = F::call(arguments).map_err(|error| match error.argument {
            Some(name) => signature.error_at(&Path::root().child(name), error.text),
            None => CallError {
                argument: None,
                text: error.text,
            },
        })?;
        bridge::to_value_of(&output, &signature.output).map_err(|error| CallError {
            argument: None,
            text: format!("the function's result does not fit its type, which is a bug in the provider: {error}"),
        })
    }
}
