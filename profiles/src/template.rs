//! Templates (tera): an unknown field is an error, never an empty text.
//!
//! tera 2 itself refuses an unknown field that is printed, but takes `{% if node.typo %}` as
//! false: so templates here test only fields that always exist.

use serde::Serialize;

/// A template could not be rendered.
#[derive(Debug, thiserror::Error)]
#[error("template `{name}` can't be rendered")]
pub struct TemplateError {
    /// Which template.
    pub name: String,
    /// Why; tera names the line and the fields that exist.
    pub source: Box<tera::Error>,
}

/// Render one template with the fields of `values`.
///
/// # Errors
/// When the template is malformed or names something that `values` does not have.
pub fn render<T: Serialize>(name: &str, text: &str, values: &T) -> Result<String, TemplateError> {
    let failed = |source| TemplateError { name: name.to_owned(), source: Box::new(source) };
    let mut tera = tera::Tera::new();
    // YAML and unit files are not HTML.
    tera.autoescape_on(Vec::<&str>::new());
    tera.add_raw_template(name, text).map_err(failed)?;
    let context = tera::Context::from_serialize(values).map_err(failed)?;
    tera.render(name, &context).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Values {
        name: &'static str,
    }

    #[test]
    fn known_fields_are_put_in_as_they_are_and_unknown_ones_fail() {
        let values = Values { name: "a<b>&\"c\"" };
        let text = render("x", "n: {{ name }}\n", &values).expect("renders");
        assert_eq!(text, "n: a<b>&\"c\"\n");
        for bad in ["{{ nmae }}", "{{ name.first }}", "{{ name | nope }}", "{% if %}"] {
            assert!(render("x", bad, &values).is_err(), "{bad}");
        }
    }
}
