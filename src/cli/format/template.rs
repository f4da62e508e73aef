//! Templates over JSON values: what `{{…}}` prints. Go's text/template as far as docker's documentation uses it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::functions;
use super::parse::{Command, Node, Operand, Pipeline, parse};
use crate::spec::diagnostics::nearest;

/// A template that was understood.
#[derive(Clone, Debug)]
pub struct Template {
    text: String,
    nodes: Vec<Node>,
}

/// What a template asks for and is not there.
#[derive(Debug, thiserror::Error)]
#[error("template {template:?}: {reason}")]
pub struct TemplateError {
    template: String,
    reason: String,
}

impl Template {
    /// # Errors
    /// Says what is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { text: text.to_owned(), nodes: parse(text)? })
    }

    /// The text for this value.
    pub fn render(&self, value: &Value) -> Result<String, TemplateError> {
        self.run(value, &BTreeMap::new(), false)
    }

    /// As [`Template::render`], with what `.Label "key"` finds.
    pub fn render_row(&self, row: &Value, labels: &BTreeMap<String, String>) -> Result<String, TemplateError> {
        self.run(row, labels, false)
    }

    /// The headings of a table: as for a value whose fields are headings, which no function changes.
    pub fn render_headings(&self, headings: &Value) -> Result<String, TemplateError> {
        self.run(headings, &BTreeMap::new(), true)
    }

    fn run(&self, value: &Value, labels: &BTreeMap<String, String>, headings: bool) -> Result<String, TemplateError> {
        let variables = BTreeMap::from([(String::new(), value.clone())]);
        let mut run = Run { out: String::new(), variables, labels, headings };
        run.nodes(&self.nodes, value).map_err(|reason| TemplateError { template: self.text.clone(), reason })?;
        Ok(run.out)
    }
}

struct Run<'a> {
    out: String,
    variables: BTreeMap<String, Value>,
    labels: &'a BTreeMap<String, String>,
    headings: bool,
}

impl Run<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<(), String> {
        nodes.iter().try_for_each(|node| self.node(node, dot))
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<(), String> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Print(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                self.out.push_str(&functions::text(&value));
            }
            Node::Assign { variable, value } => {
                let value = self.pipeline(value, dot)?;
                self.variables.insert(variable.clone(), value);
            }
            Node::If { condition, then, otherwise } => {
                let holds = functions::truth(&self.pipeline(condition, dot)?);
                self.nodes(if holds { then } else { otherwise }, dot)?;
            }
            Node::With { value, then, otherwise } => {
                let value = self.pipeline(value, dot)?;
                if functions::truth(&value) { self.nodes(then, &value)? } else { self.nodes(otherwise, dot)? }
            }
            Node::Range { variables, over, body, otherwise } => {
                let all = items(self.pipeline(over, dot)?)?;
                if all.is_empty() {
                    self.nodes(otherwise, dot)?;
                }
                for (key, value) in all {
                    match variables.as_slice() {
                        [one] => drop(self.variables.insert(one.clone(), value.clone())),
                        [first, second] => {
                            self.variables.insert(first.clone(), key);
                            self.variables.insert(second.clone(), value.clone());
                        }
                        _ => {}
                    }
                    self.nodes(body, &value)?;
                }
            }
        }
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let mut result = None;
        for command in pipeline {
            result = Some(self.command(command, dot, result)?);
        }
        result.ok_or_else(|| "an empty pipeline".to_owned())
    }

    /// `before` is what was piped in: the last argument.
    fn command(&mut self, command: &Command, dot: &Value, before: Option<Value>) -> Result<Value, String> {
        let (first, rest) = command.split_first().ok_or("an empty command")?;
        let mut arguments = rest.iter().map(|operand| self.operand(operand, dot)).collect::<Result<Vec<_>, _>>()?;
        arguments.extend(before);
        match first {
            Operand::Function(_) if self.headings => {
                Ok(arguments.into_iter().rev().find(Value::is_string).unwrap_or_default())
            }
            Operand::Function(name) => functions::call(name, &arguments),
            // docker's `.Label "key"`: the one field that takes an argument.
            Operand::Field(path) if path.last().is_some_and(|name| name == "Label") && arguments.len() == 1 => {
                if self.headings {
                    return Ok(arguments.remove(0));
                }
                functions::call("index", &[json!(self.labels), arguments.remove(0)])
            }
            _ if !arguments.is_empty() => Err(format!("{first:?} takes no argument")),
            _ => self.operand(first, dot),
        }
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Field(path) => fields(dot, path),
            Operand::Variable(name, path) => {
                let value = self.variables.get(name).ok_or_else(|| format!("there is no variable ${name}"))?;
                fields(value, path)
            }
            Operand::Group(pipeline, path) => fields(&self.pipeline(pipeline, dot)?, path),
            Operand::Function(name) => functions::call(name, &[]),
        }
    }
}

/// Fields that hold what users name: what is not there has no value, and is no slip.
const OPEN: [&str; 7] = ["Annotations", "Attributes", "Labels", "Networks", "Options", "Ports", "Sysctls"];

fn fields(value: &Value, path: &[String]) -> Result<Value, String> {
    let mut value = value;
    for (at, name) in path.iter().enumerate() {
        let place = || path[..at].iter().map(|name| format!(".{name}")).collect::<String>();
        value = match value {
            Value::Object(map) => match map.get(name) {
                None if at.checked_sub(1).is_some_and(|above| OPEN.contains(&path[above].as_str())) => &Value::Null,
                found => found.ok_or_else(|| absent(map, name, &place()))?,
            },
            Value::Null => return Err(format!("`{}` is nothing, so it has no `{name}`", place())),
            _ => return Err(format!("`{}` has no fields, so no `{name}`", place())),
        };
    }
    Ok(value.clone())
}

fn absent(map: &Map<String, Value>, name: &str, place: &str) -> String {
    let own = map.keys().map(String::as_str);
    let help = match nearest(name, own.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there are {}", own.collect::<Vec<_>>().join(", ")),
    };
    let place = if place.is_empty() { String::new() } else { format!(" in `{place}`") };
    format!("there is no field `{name}`{place}\n  help: {help}")
}

/// Key and value of each.
fn items(value: Value) -> Result<Vec<(Value, Value)>, String> {
    match value {
        Value::Array(all) => Ok(all.into_iter().enumerate().map(|(index, one)| (json!(index), one)).collect()),
        Value::Object(map) => Ok(map.into_iter().map(|(key, one)| (json!(key), one)).collect()),
        Value::Null => Ok(Vec::new()),
        other => Err(format!("`range` over {other}, which is neither a list nor a map")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str) -> Result<String, String> {
        let value = json!({
            "Name": "web", "Id": "0123456789abcdef", "Count": 3, "On": true, "Off": false, "Nothing": null,
            "List": ["a", "b"], "Empty": [],
            "State": {"Status": "running", "Code": 0},
            "Nets": {"back": {"IP": "10.0.0.2"}, "front": {"IP": "10.0.1.2"}},
            "Labels": {"a.b": "c"},
        });
        let labels = BTreeMap::from([("a.b".to_owned(), "c".to_owned())]);
        Template::parse(template)?.render_row(&value, &labels).map_err(|error| error.to_string())
    }

    #[test]
    fn templates_print_what_gos_do() {
        for (template, expected) in [
            ("plain", "plain"),
            ("{{.Name}}", "web"),
            ("{{ .Name }}-{{.State.Status}}", "web-running"),
            ("a {{- .Name -}} b", "awebb"),
            ("{{/* said to nobody */}}x", "x"),
            ("{{json .List}}", "[\"a\",\"b\"]"),
            ("{{.List}} {{.Nothing}} {{.On}} {{.Count}}", "[a b] <no value> true 3"),
            ("{{.Nets.back}}", "map[IP:10.0.0.2]"),
            ("{{join .List \", \"}}", "a, b"),
            ("{{.List | len}}", "2"),
            ("{{.Name | upper | printf \"%s!\"}}", "WEB!"),
            ("{{upper .Name}} {{title .Name}} {{lower \"A\"}}", "WEB Web a"),
            ("{{truncate .Id 4}}", "0123"),
            ("{{slice .Id 2 5}}", "234"),
            ("{{printf \"%s has %d, %v, %q\" .Name .Count .On .Name}}", "web has 3, true, \"web\""),
            ("{{index .Labels \"a.b\"}}{{index .Labels \"x\"}}", "c"),
            ("{{index .List 1}}", "b"),
            ("{{.Label \"a.b\"}}", "c"),
            ("{{.Labels.x}}{{if .Labels.x}}y{{end}}", "<no value>"),
            ("{{(index .Nets \"back\").IP}}", "10.0.0.2"),
            ("{{range .Nets}}{{.IP}} {{end}}", "10.0.0.2 10.0.1.2 "),
            ("{{range $k, $v := .Nets}}{{$k}}={{$v.IP}} {{end}}", "back=10.0.0.2 front=10.0.1.2 "),
            ("{{range .List}}{{.}}{{$.Name}}{{end}}", "awebbweb"),
            ("{{range .Empty}}x{{else}}none{{end}}", "none"),
            ("{{if .On}}yes{{else}}no{{end}}{{if .Empty}}x{{end}}", "yes"),
            ("{{if .Off}}1{{else if eq .Name \"web\"}}2{{else}}3{{end}}", "2"),
            ("{{if and .On (gt .Count 2)}}y{{end}}{{if or .Off .Nothing}}n{{end}}{{not .Off}}", "ytrue"),
            ("{{with .State}}{{.Status}}{{end}}{{with .Nothing}}x{{else}}-{{end}}", "running-"),
            ("{{$x := .Name}}{{$x}}", "web"),
            ("{{eq .State.Code 0}} {{ne .Name \"a\" }} {{lt 1 2}} {{ge 2 2}}", "true true true true"),
            ("{{split \"a:b\" \":\"}} {{println .Name}}", "[a b] web\n"),
            ("{{`raw \\ text`}} {{\"a\\\"}}\"}}", "raw \\ text a\"}}"),
        ] {
            assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn what_is_not_there_is_told_with_what_is() {
        for (template, part) in [
            ("{{.Nam}}", "did you mean `Name`?"),
            ("{{.State.Foo}}", "there are Code, Status"),
            ("{{.Nothing.X}}", "is nothing"),
            ("{{.Name.X}}", "has no fields"),
            ("{{frob .Name}}", "there is no function `frob`"),
            ("{{index .List 9}}", "9"),
            ("{{$y}}", "no variable $y"),
            ("{{if .On}}", "without `end`"),
            ("{{end}}", "without a beginning"),
            ("{{.Name", "without `}}`"),
            ("{{}}", "nothing between"),
            ("{{\"a}}", "without"),
            ("{{.Name | }}", "nothing between"),
            ("{{(.Name}}", "without `)`"),
            ("{{range .Count}}{{end}}", "neither a list nor a map"),
        ] {
            let error = render(template).unwrap_err();
            assert!(error.contains(part), "{template}: {error}");
        }
    }
}
