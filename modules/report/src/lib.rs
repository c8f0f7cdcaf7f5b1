//! The report page and its JSON twin.
//!
//! A report is a record of what was seen, in sections that different plays write at different times. [`model`] is the record and what
//! follows from it, [`render`] turns it into one self-contained page, [`module`] keeps the sections in a directory. Nothing here checks anything.

mod clock;
mod html;
pub mod model;
pub mod module;

pub use html::render;
pub use model::Report;
pub use module::ReportModule;
