//! The way of a resource that only VirtualBox has to its host.
//!
//! Which acts there are is `ondol_virtualbox`'s business; here an act gets its name, its time and its errors.

use std::sync::Arc;

use ondol_virtualbox as virtualbox;
use tfplugin::{Attr, Diagnostic, Operation, path};

use super::vm::finish;
use crate::config::Cloud;
use crate::diagnostics;
use crate::engine::Engine;
use crate::engines::virtualbox::VirtualBoxEngine;

/// A host with VirtualBox.
pub(super) struct OnVirtualBox(Arc<dyn Engine>);

impl OnVirtualBox {
    /// The host that a resource's `host` names. `kind` is the resource's type.
    pub(super) fn of(
        cx: &Operation<Cloud>,
        host: &Attr<String>,
        kind: &str,
    ) -> Result<Self, Diagnostic> {
        let host = host.require(path!["host"])?;
        let engine = cx.context().engine(host, path!["host"])?;
        if engine.virtualbox().is_some() {
            return Ok(Self(engine));
        }
        Err(
            Diagnostic::error(format!("Host {host:?} has no VirtualBox"))
                .detail(format!(
                    "hosts[{host:?}] has another engine, and {kind} is something that only VirtualBox has. Name a host with engine = \"virtualbox\"."
                ))
                .at(path!["host"]),
        )
    }

    /// Parts HOST/REST of an import id.
    pub(super) fn part_id<'a>(
        id: &'a str,
        form: &str,
        example: &str,
    ) -> Result<(&'a str, &'a str), Diagnostic> {
        id.split_once('/')
            .filter(|(host, rest)| !host.is_empty() && !rest.is_empty())
            .ok_or_else(|| {
                Diagnostic::error(format!("{id:?} cannot be imported")).detail(format!(
                    "Write {form}, for example {example}. HOST is a key of the provider's `hosts`."
                ))
            })
    }

    fn engine(&self) -> &VirtualBoxEngine {
        self.0
            .virtualbox()
            .expect("it was asked for when this was made")
    }

    pub(super) fn host(&self) -> &virtualbox::Host {
        self.engine().virtualbox_host()
    }

    pub(super) fn name(&self) -> &str {
        self.0.host()
    }

    /// Waits for an act that changes something. Terraform's wish to stop leaves it a moment to end well.
    pub(super) async fn act<T>(
        &self,
        cx: &Operation<Cloud>,
        act: &str,
        work: impl Future<Output = virtualbox::Result<T>>,
    ) -> Result<T, Diagnostic> {
        finish(cx, work)
            .await?
            .map_err(|error| diagnostics::engine(&self.engine().translate(act, error)))
    }

    /// Waits for an act that only looks.
    pub(super) async fn look<T>(
        &self,
        cx: &Operation<Cloud>,
        act: &str,
        work: impl Future<Output = virtualbox::Result<T>>,
    ) -> Result<T, Diagnostic> {
        cx.wait(work)
            .await?
            .map_err(|error| diagnostics::engine(&self.engine().translate(act, error)))
    }
}
