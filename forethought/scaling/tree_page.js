"use strict";
// The page of one file: what stands around the tree.
{
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("data").textContent);
  document.title = shown(data.title);
  at("title").textContent = shown(data.title);
  pairs(at("facts"), data.facts);
  at("note").hidden = !data.note;
  at("note").textContent = shown(data.note);
  for (const [role, content] of data.messages) at("messages").append(make("h3", "", shown(role)), make("pre", "", shown(content)));
  treeView.show(data);
}
