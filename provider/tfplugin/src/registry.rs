//! What a provider offers, by name. It is filled once, at start; schemas are read when they are first needed.

use std::collections::BTreeMap;

use crate::erased::{
    AnyDataSource, AnyEphemeral, AnyFunction, AnyResource, DataSourceEntry, EphemeralEntry,
    FunctionEntry, ResourceEntry,
};
use crate::schema::{Schema, SchemaError};
use crate::{DataSource, Ephemeral, Function, Provider, Resource};

/// The resources, data sources, ephemeral resources and functions of a provider.
pub struct Registry<C> {
    pub(crate) resources: BTreeMap<&'static str, Box<dyn AnyResource<C>>>,
    pub(crate) data_sources: BTreeMap<&'static str, Box<dyn AnyDataSource<C>>>,
    pub(crate) ephemerals: BTreeMap<&'static str, Box<dyn AnyEphemeral<C>>>,
    pub(crate) functions: BTreeMap<&'static str, Box<dyn AnyFunction>>,
}

impl<C: Send + Sync + 'static> Registry<C> {
    /// What a provider registers.
    pub fn of<P: Provider<Context = C>>() -> Self {
        let mut registry = Self {
            resources: BTreeMap::new(),
            data_sources: BTreeMap::new(),
            ephemerals: BTreeMap::new(),
            functions: BTreeMap::new(),
        };
        P::register(&mut registry);
        registry
    }

    pub fn resource<R: Resource<Context = C>>(&mut self) -> &mut Self {
        self.resources
            .insert(R::TYPE_NAME, Box::new(ResourceEntry::<R>::new()));
        self
    }

    pub fn data_source<D: DataSource<Context = C>>(&mut self) -> &mut Self {
        self.data_sources
            .insert(D::TYPE_NAME, Box::new(DataSourceEntry::<D>::new()));
        self
    }

    pub fn ephemeral<E: Ephemeral<Context = C>>(&mut self) -> &mut Self {
        self.ephemerals
            .insert(E::TYPE_NAME, Box::new(EphemeralEntry::<E>::new()));
        self
    }

    pub fn function<F: Function>(&mut self) -> &mut Self {
        self.functions
            .insert(F::NAME, Box::new(FunctionEntry::<F>::new()));
        self
    }
}

/// Reads every schema of a provider: for a test of the provider's own, because Terraform sees a wrong schema only when
/// the provider is used.
pub fn check<P: Provider>() -> Result<(), Vec<SchemaError>> {
    let registry = Registry::of::<P>();
    let mut errors = Vec::new();
    let mut note = |error: Option<SchemaError>| errors.extend(error);
    note(Schema::of_config::<P::Config>().err());
    for resource in registry.resources.values() {
        note(resource.schema().err());
        note(resource.identity_schema().err());
    }
    for data_source in registry.data_sources.values() {
        note(data_source.schema().err());
    }
    for ephemeral in registry.ephemerals.values() {
        note(ephemeral.schema().err());
    }
    for function in registry.functions.values() {
        note(function.signature().err());
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}
