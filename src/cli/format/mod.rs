//! `--format`: how results are shown. Tables for people, JSON for programs, docker's templates for scripts.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::view::{self, Table};

mod functions;
mod parse;
mod template;

pub use template::Template;

/// What `--format` says.
#[derive(Clone, Debug, Default)]
pub enum Format {
    #[default]
    Table,
    Json,
    /// `{{.Name}}`: a line for each.
    Template(Template),
    /// `table {{.Name}}\t{{.Status}}`: with headings, in columns.
    TableTemplate(Template),
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |text: &str| Template::parse(&text.replace("\\t", "\t").replace("\\n", "\n"));
        match text.strip_prefix("table ") {
            Some(rest) => Ok(Self::TableTemplate(parse(rest.trim_start())?)),
            None if text == "table" || text.is_empty() => Ok(Self::Table),
            None if text == "json" => Ok(Self::Json),
            None if text.contains("{{") => Ok(Self::Template(parse(text)?)),
            None => Err("expected table, json, or a template such as {{.Name}}".to_owned()),
        }
    }
}

/// A column of a listing: its name in templates, and its heading in tables.
pub type Column = (&'static str, &'static str);

/// What a command lists.
#[derive(Debug)]
pub struct Listing {
    /// All names that a template may use.
    columns: &'static [Column],
    /// Those that the table has, in this order.
    table: Vec<&'static str>,
    rows: Vec<Row>,
}

/// One line of a listing: its cells by the names of columns, and the object for programs.
#[derive(Debug)]
pub struct Row {
    pub cells: Map<String, Value>,
    pub value: Value,
    /// For `{{.Label "key"}}`.
    pub labels: BTreeMap<String, String>,
}

impl Row {
    /// From pairs of column and cell.
    pub fn new<const N: usize>(cells: [(&str, String); N], value: Value) -> Self {
        let cells = cells.into_iter().map(|(name, cell)| (name.to_owned(), json!(cell))).collect();
        Self { cells, value, labels: BTreeMap::new() }
    }

    pub fn with_labels(self, labels: &BTreeMap<String, String>) -> Self {
        Self { labels: labels.clone(), ..self }
    }
}

impl Listing {
    pub fn new(columns: &'static [Column], table: &[&'static str]) -> Self {
        Self { columns, table: table.to_vec(), rows: Vec::new() }
    }

    pub fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Prints it on standard output.
    ///
    /// # Errors
    /// Where a template names what is not there.
    pub fn print(&self, format: &Format) -> Result<(), Failure> {
        view::out(&self.text(format)?)?;
        Ok(())
    }

    /// The text that [`Listing::print`] prints.
    pub fn text(&self, format: &Format) -> Result<String, Failure> {
        match format {
            Format::Table => Ok(self.table_text()),
            Format::Json => {
                let values: Vec<&Value> = self.rows.iter().map(|row| &row.value).collect();
                Ok(serde_json::to_string_pretty(&values)? + "\n")
            }
            Format::Template(template) => self.lines(template),
            Format::TableTemplate(template) => self.template_table(template),
        }
    }

    /// An object a line: for what goes on and on.
    pub fn json_lines(&self) -> Result<String, Failure> {
        let mut text = String::new();
        for row in &self.rows {
            text.push_str(&serde_json::to_string(&row.value)?);
            text.push('\n');
        }
        Ok(text)
    }

    /// The rows alone, a line each.
    fn lines(&self, template: &Template) -> Result<String, Failure> {
        let mut text = String::new();
        for row in &self.rows {
            text.push_str(&template.render_row(&Value::Object(row.cells.clone()), &row.labels)?);
            text.push('\n');
        }
        Ok(text)
    }

    fn table_text(&self) -> String {
        let heading = |name: &&str| self.columns.iter().find(|(column, _)| column == name).map_or("", |(_, text)| text);
        let headings: Vec<&str> = self.table.iter().map(heading).collect();
        let mut table = Table::new(&headings);
        for row in &self.rows {
            table.row(self.table.iter().map(|name| plain(row.cells.get(*name))));
        }
        table.render()
    }

    fn template_table(&self, template: &Template) -> Result<String, Failure> {
        let headings: Map<String, Value> =
            self.columns.iter().map(|(name, heading)| ((*name).to_owned(), json!(heading))).collect();
        let heading = template.render_headings(&Value::Object(headings))?;
        let mut table = Table::new(&heading.split('\t').collect::<Vec<_>>());
        for line in self.lines(template)?.lines() {
            table.row(line.split('\t').map(str::to_owned));
        }
        Ok(table.render())
    }
}

fn plain(cell: Option<&Value>) -> String {
    match cell {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// Prints one value: `table` is its text for people.
pub fn print_value(format: &Format, value: &Value, table: impl FnOnce() -> String) -> Result<(), Failure> {
    match format {
        Format::Table => view::out(&table())?,
        Format::Json => view::json(value)?,
        Format::Template(template) | Format::TableTemplate(template) => {
            view::out(&(template.render(value)? + "\n"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[("ID", "CONTAINER ID"), ("Names", "NAMES"), ("Status", "STATUS")];

    fn listing() -> Listing {
        let mut listing = Listing::new(COLUMNS, &["Names", "Status"]);
        for (id, name) in [("1", "web"), ("2", "database")] {
            let cells = [("ID", id.to_owned()), ("Names", name.to_owned()), ("Status", "Up".to_owned())];
            listing.push(Row::new(cells, json!({"name": name})));
        }
        listing
    }

    #[test]
    fn a_listing_has_all_forms() {
        for (format, expected) in [
            ("table", "NAMES     STATUS\nweb       Up\ndatabase  Up\n"),
            ("{{.ID}}: {{.Names}}", "1: web\n2: database\n"),
            ("{{.ID}}\\t{{.Names}}", "1\tweb\n2\tdatabase\n"),
            ("table {{.ID}}\\t{{.Names}}", "CONTAINER ID  NAMES\n1             web\n2             database\n"),
            ("json", "[\n  {\n    \"name\": \"web\"\n  },\n  {\n    \"name\": \"database\"\n  }\n]\n"),
        ] {
            let parsed: Format = format.parse().unwrap();
            assert_eq!(listing().text(&parsed).unwrap(), expected, "{format}");
        }
        assert!("yaml".parse::<Format>().is_err());
        assert!("{{.X".parse::<Format>().is_err());
        let unknown = listing().text(&"{{.Nams}}".parse().unwrap()).unwrap_err().to_string();
        assert!(unknown.contains("did you mean `Names`?"), "{unknown}");
    }
}
