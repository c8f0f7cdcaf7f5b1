//! How an attribute behaves, declared on the field of a model:
//! `#[schemars(transform = attribute::computed, transform = attribute::stable)]`.
//! Each function only writes a mark into the field's JSON schema; [`crate::schema`] reads the marks.

use schemars::Schema;
use schemars::transform::Transform;
use serde_json::Value;

pub(crate) const REQUIRED: &str = "x-tf-required";
pub(crate) const OPTIONAL: &str = "x-tf-optional";
pub(crate) const COMPUTED: &str = "x-tf-computed";
pub(crate) const SENSITIVE: &str = "x-tf-sensitive";
pub(crate) const WRITE_ONLY: &str = "x-tf-write-only";
pub(crate) const REQUIRES_REPLACE: &str = "x-tf-requires-replace";
pub(crate) const STABLE: &str = "x-tf-stable";
pub(crate) const DEPRECATED: &str = "x-tf-deprecated";
pub(crate) const VARIADIC: &str = "x-tf-variadic";
pub(crate) const ALLOW_UNKNOWN: &str = "x-tf-allow-unknown";
pub(crate) const TIMEOUTS: &str = "x-tf-timeouts";
pub(crate) const DYNAMIC: &str = "x-tf-dynamic";
pub(crate) const PLAIN_OBJECT: &str = "x-tf-plain-object";

fn mark(schema: &mut Schema, name: &str) {
    schema.insert(name.to_owned(), true.into());
}

/// The configuration must set it.
pub fn required(schema: &mut Schema) {
    mark(schema, REQUIRED);
}

/// The configuration may set it. What an attribute is when nothing else is said.
pub fn optional(schema: &mut Schema) {
    mark(schema, OPTIONAL);
}

/// Only the provider sets it.
pub fn computed(schema: &mut Schema) {
    mark(schema, COMPUTED);
}

/// The configuration may set it; the provider does where the configuration does not.
pub fn optional_computed(schema: &mut Schema) {
    mark(schema, OPTIONAL);
    mark(schema, COMPUTED);
}

/// Terraform hides its value from output.
pub fn sensitive(schema: &mut Schema) {
    mark(schema, SENSITIVE);
}

/// Its value reaches `create` and `update` in `config`, and never a plan or a state.
pub fn write_only(schema: &mut Schema) {
    mark(schema, WRITE_ONLY);
}

/// Another value means another resource. On an attribute of a nested object it counts where the object existed before
/// and still does: a new disk does not replace the machine.
pub fn requires_replace(schema: &mut Schema) {
    mark(schema, REQUIRES_REPLACE);
}

/// A computed value that an update does not change, such as an id. It stays known while other attributes change.
pub fn stable(schema: &mut Schema) {
    mark(schema, STABLE);
}

/// The value of an attribute that the configuration leaves out. `#[schemars(extend("default" = 2048))]` says the same.
pub fn default_value(value: impl Into<Value>) -> impl Transform {
    let value = value.into();
    move |schema: &mut Schema| {
        schema.insert("default".to_owned(), value.clone());
    }
}

/// Deprecates an attribute and says what to use instead. `#[deprecated]` deprecates it without advice.
pub fn deprecated(instead: &'static str) -> impl Transform {
    move |schema: &mut Schema| {
        schema.insert("deprecated".to_owned(), true.into());
        schema.insert(DEPRECATED.to_owned(), instead.into());
    }
}

/// A struct, or a collection of structs, as one value of an object type instead of nested attributes: the
/// configuration must then give every attribute, and none of them has a behaviour of its own.
pub fn plain_object(schema: &mut Schema) {
    mark(schema, PLAIN_OBJECT);
}

/// A function's last parameter, a list, that takes all further arguments.
pub fn variadic(schema: &mut Schema) {
    mark(schema, VARIADIC);
}

/// A function's parameter, an `Attr`, that may be unknown. Without it Terraform does not call the function until
/// the argument is known.
pub fn allow_unknown(schema: &mut Schema) {
    mark(schema, ALLOW_UNKNOWN);
}
