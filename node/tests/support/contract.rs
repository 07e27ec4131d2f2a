//! Holds answers of the client port against the document that it serves.

use serde_json::{Map, Value, json};

/// Methods that a document can have operations of.
pub(crate) const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

/// The document.
pub(crate) struct Contract(Value);

impl Contract {
    pub(crate) fn new(document: &str) -> Self {
        Self(serde_json::from_str(document).expect("the document is JSON"))
    }

    /// Every path template and method that is described, with the statuses.
    pub(crate) fn operations(&self) -> Vec<(String, &'static str, Vec<u16>)> {
        let paths = self.0["paths"].as_object().expect("paths").iter();
        let operations = paths.flat_map(|(path, item)| {
            METHODS.iter().filter_map(move |method| {
                let statuses = item[*method]["responses"].as_object()?.keys();
                let statuses = statuses.map(|status| status.parse().expect("a number"));
                Some((path.clone(), *method, statuses.collect()))
            })
        });
        operations.collect()
    }

    /// The template that a path is of.
    fn template(&self, path: &str) -> Option<&str> {
        let paths = self.0["paths"].as_object().expect("paths");
        let fits = |template: &str| match template.strip_suffix("{key}") {
            Some(start) => path.strip_prefix(start).is_some_and(|key| !key.is_empty()),
            None => template == path,
        };
        paths.keys().map(String::as_str).find(|template| fits(template))
    }

    /// What is wrong with an answer, if anything is; `path` may have a query.
    pub(crate) fn check(
        &self,
        method: &str,
        path: &str,
        status: u16,
        content_type: Option<&str>,
        body: &[u8],
    ) -> Result<(), String> {
        let path = path.split('?').next().unwrap_or_default();
        let place = format!("{method} {path} answered {status}");
        let method = method.to_ascii_lowercase();
        let operation = self.template(path).map(|template| &self.0["paths"][template][&method]);
        let Some(operation) = operation.filter(|operation| operation.is_object()) else {
            let held = self.check_schema("Error", body);
            return held.map_err(|error| format!("{place}, which is no error: {error}"));
        };
        let response = &operation["responses"][status.to_string()];
        let response = match response["$ref"].as_str() {
            Some(reference) => self.0.pointer(reference.trim_start_matches('#')).expect("it is there"),
            None => response,
        };
        let Some(described) = response.as_object() else { return Err(format!("{place}, which is not described")) };
        let Some(contents) = described.get("content").and_then(Value::as_object) else {
            return if body.is_empty() { Ok(()) } else { Err(format!("{place} with a body, but none is described")) };
        };
        let kind = content_type.unwrap_or_default();
        let Some(content) = contents.get(kind) else {
            return Err(format!("{place} as {kind:?}, described are {:?}", contents.keys()));
        };
        match content.get("schema") {
            Some(schema) if kind == "application/json" => {
                self.validate(schema, body).map_err(|error| format!("{place}: {error}"))
            }
            _ => Ok(()),
        }
    }

    /// Holds JSON against a schema that is described under a name.
    pub(crate) fn check_schema(&self, name: &str, body: &[u8]) -> Result<(), String> {
        self.validate(&json!({"$ref": format!("#/components/schemas/{name}")}), body)
    }

    fn validate(&self, schema: &Value, body: &[u8]) -> Result<(), String> {
        let text = String::from_utf8_lossy(body);
        let found: Value = serde_json::from_slice(body).map_err(|error| format!("{error} in {text:?}"))?;
        let mut schema: Map<String, Value> = schema.as_object().expect("a schema is an object").clone();
        schema.insert("components".to_owned(), self.0["components"].clone());
        let validator = jsonschema::draft202012::new(&Value::Object(schema)).expect("the schema is one");
        let errors: Vec<String> = validator.iter_errors(&found).map(|error| error.to_string()).collect();
        if errors.is_empty() { Ok(()) } else { Err(format!("{} in {text}", errors.join("; "))) }
    }
}
