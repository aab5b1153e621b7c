// The rules for the scripts of the page. `.ci/run` installs ESLint and runs it before the tests.
import js from "@eslint/js";
import globals from "globals";

export default [
  js.configs.recommended,
  {
    // Classic scripts: each is one function that adds to `window.QFormerViz`.
    files: ["**/*.js"],
    languageOptions: { ecmaVersion: 2024, sourceType: "script", globals: globals.browser },
    // A finding is mended in the code. Comments cannot switch a rule off.
    linterOptions: { noInlineConfig: true },
    rules: { eqeqeq: "error", "no-shadow": "error", "no-var": "error", "prefer-const": "error" },
  },
  {
    // Gradio runs these two as the body of a function that has these arguments.
    files: ["**/mount.stage.js", "**/mount.view.js"],
    languageOptions: { globals: { element: "readonly", props: "readonly", trigger: "readonly", watch: "readonly" } },
  },
];
