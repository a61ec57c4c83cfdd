// Starts Swagger UI on the document of this service. Nothing is kept in the browser, and no validator elsewhere is asked.
"use strict";

const place = document.getElementById("swagger-ui");
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
follow();
dark.addEventListener("change", follow);
SwaggerUIBundle({
  url: place.dataset.document,
  domNode: place,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  docExpansion: "none",
  defaultModelsExpandDepth: 0,
  showExtensions: true,
  showCommonExtensions: true,
  syntaxHighlight: { activated: false },
  validatorUrl: null,
});
