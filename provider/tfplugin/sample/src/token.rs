//! `sample_token`: an ephemeral resource, renewed while it is used and closed at the end.

use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{Attr, Diagnostic, Diagnostics, Ephemeral, Opened, Operation, attribute};

use crate::machine::Machine;

pub(crate) struct Token;

/// A token for a while.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Model {
    /// Who it is for.
    #[schemars(transform = attribute::required, length(min = 2))]
    owner: Attr<String>,
    /// Renew it after this long.
    renew_millis: Attr<u64>,
    /// The token.
    #[schemars(transform = attribute::computed, transform = attribute::sensitive)]
    token: Attr<String>,
}

/// What closing has to know.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Private {
    owner: String,
    renewals: u32,
}

type Cx = Operation<Machine, Private>;

impl Ephemeral for Token {
    type Model = Model;
    type Context = Machine;
    type Private = Private;

    const TYPE_NAME: &'static str = "sample_token";

    async fn open(cx: &Cx, config: Model) -> Result<Opened<Model>, Diagnostics> {
        let owner = config.owner.unwrap_or_default();
        cx.context()
            .note(&format!("open {owner}"))
            .map_err(Diagnostic::from)?;
        let token = format!("token-of-{owner}");
        cx.set_private(Private { owner, renewals: 0 });
        let opened = Opened::from(Model {
            token: token.into(),
            ..config.clone()
        });
        Ok(match config.renew_millis {
            Attr::Known(millis) => {
                opened.renew_at(SystemTime::now() + Duration::from_millis(millis))
            }
            _ => opened,
        })
    }

    async fn renew(cx: &Cx) -> Result<Option<SystemTime>, Diagnostics> {
        let Private { owner, renewals } = cx.private();
        cx.context()
            .note(&format!("renew {owner}"))
            .map_err(Diagnostic::from)?;
        cx.set_private(Private {
            owner,
            renewals: renewals + 1,
        });
        Ok(None)
    }

    async fn close(cx: &Cx) -> Result<(), Diagnostics> {
        let Private { owner, renewals } = cx.private();
        let line = format!("close {owner} after {renewals} renewals");
        Ok(cx.context().note(&line).map_err(Diagnostic::from)?)
    }
}
