//! The extension module of Python.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};
use pyo3::{create_exception, ffi};

use crate::encode;
use crate::origins::Origins;
use crate::refusal::Rejected;
use crate::row::SPAN_KINDS;
use crate::tag_sets::{TagSet, TagSets};

create_exception!(
    promscale_encoder,
    Malformed,
    pyo3::exceptions::PyException,
    "The request is not an ExportTraceServiceRequest."
);
create_exception!(
    promscale_encoder,
    TooLarge,
    pyo3::exceptions::PyException,
    "The rows of the request would take too much memory."
);
create_exception!(promscale_encoder, Panic, pyo3::exceptions::PyException, "A defect of the encoder.");

/// Rows, which Python reads by the buffer protocol, without a copy.
#[pyclass(frozen)]
struct Buffer(Vec<u8>);

#[pymethods]
impl Buffer {
    unsafe fn __getbuffer__(slf: PyRef<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let (data, size) = (slf.0.as_ptr() as *mut c_void, slf.0.len() as ffi::Py_ssize_t);
        let object = slf.as_ptr();
        // SAFETY: the view keeps the object alive, and nothing changes its bytes.
        if unsafe { ffi::PyBuffer_FillInfo(view, object, data, size, 1, flags) } == 0 {
            Ok(())
        } else {
            Err(PyErr::take(slf.py()).unwrap_or_else(|| PyBufferError::new_err("no view of the rows")))
        }
    }
}

/// The origin's id, the id, and each key as JSON, with the colon behind it, with its value as JSON.
type PythonTagSet = (i64, i32, HashMap<Vec<u8>, Vec<u8>>);

/// The tag sets that new spans get, made from a list of them.
#[pyclass(frozen, name = "TagSets")]
struct PythonTagSets(TagSets);

#[pymethods]
impl PythonTagSets {
    #[new]
    fn new(tag_sets: Vec<PythonTagSet>) -> Self {
        PythonTagSets(tag_sets.into_iter().map(|(origin_id, id, tags)| (origin_id, TagSet::new(id, tags))).collect())
    }
}

/// Encode a serialized OTLP ExportTraceServiceRequest, with these tag sets.
///
/// Returns (number of spans, [rows of span], [rows of traces_data], [origin], {minute}, [trace id], number of refused
/// spans, [(reason, serialized span or None)]); an origin is the tuple that otlp.Origin describes.
/// Raises Malformed, TooLarge and Panic.
#[pyfunction(name = "encode")]
fn encode_for_python<'py>(py: Python<'py>, request: &[u8], tag_sets: &PythonTagSets) -> PyResult<Bound<'py, PyTuple>> {
    let encoded = py
        .detach(|| catch_unwind(AssertUnwindSafe(|| encode(request, &tag_sets.0))))
        .map_err(|panic| Panic::new_err(message(&*panic)))?
        .map_err(|rejected| match rejected {
            Rejected::Malformed => Malformed::new_err(()),
            Rejected::TooLarge => TooLarge::new_err(()),
        })?;
    let origins = python_origins(py, &encoded.origins)?;
    let buffers = |rows: Vec<Vec<u8>>| rows.into_iter().map(Buffer).collect::<Vec<_>>();
    let parts = (
        encoded.count,
        buffers(encoded.spans),
        buffers(encoded.traces_data),
        origins,
        encoded.minutes,
        encoded.trace_ids.iter().map(|id| PyBytes::new(py, id)).collect::<Vec<_>>(),
        encoded.refusals.count,
        encoded
            .refusals
            .reasons
            .into_iter()
            .map(|(reason, span)| (reason, span.map(|span| PyBytes::new(py, span))))
            .collect::<Vec<_>>(),
    );
    parts.into_pyobject(py)
}

/// The origins that have spans; those with the same resource, scope or service share these objects.
fn python_origins<'py>(py: Python<'py>, all: &Origins) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let kinds = SPAN_KINDS.map(|kind| PyString::new(py, kind));
    let mut resources = HashMap::new();
    for (id, resource) in &all.resources {
        let row = (&resource.tags, resource.dropped_tags_count, &resource.schema_url).into_pyobject(py)?;
        resources.insert(id, (PyString::new(py, &resource.service_name), row));
    }
    let mut scopes = HashMap::new();
    for (id, scope) in &all.scopes {
        scopes.insert(id, (&scope.name, &scope.version, &scope.schema_url, &scope.tags).into_pyobject(py)?);
    }
    let used = all.origins.iter().filter(|origin| origin.used);
    used.map(|origin| {
        let (service_name, resource) = &resources[&origin.resource_id];
        let operation = (service_name, &kinds[origin.span_kind], &origin.span_name);
        let scope = &scopes[&origin.scope_id];
        let tuple = (origin.id, origin.operation_id, operation, origin.resource_id, resource, origin.scope_id, scope);
        Ok(tuple.into_pyobject(py)?.into_any())
    })
    .collect()
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("panic").to_owned()
}

#[pymodule]
fn promscale_encoder(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("Malformed", py.get_type::<Malformed>())?;
    module.add("TooLarge", py.get_type::<TooLarge>())?;
    module.add("Panic", py.get_type::<Panic>())?;
    module.add_class::<PythonTagSets>()?;
    module.add_function(wrap_pyfunction!(encode_for_python, module)?)
}
