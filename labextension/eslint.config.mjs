import js from '@eslint/js';
import jupyter from '@jupyter/eslint-plugin';
import prettier from 'eslint-config-prettier';
import { defineConfig, globalIgnores } from 'eslint/config';
import globals from 'globals';
import typescript from 'typescript-eslint';

export default defineConfig([
  globalIgnores(['coverage', 'lib', '**/*.js']),
  js.configs.recommended,
  typescript.configs.recommendedTypeChecked,
  { plugins: { jupyter } },
  jupyter.configs.recommended,
  {
    files: ['**/*.ts', '**/*.tsx'],
    languageOptions: {
      globals: globals.browser,
      parserOptions: { project: 'tsconfig.test.json', sourceType: 'module' }
    },
    rules: {
      '@typescript-eslint/naming-convention': [
        'error',
        {
          selector: 'interface',
          format: ['PascalCase'],
          custom: { regex: '^I[A-Z]', match: true }
        }
      ],
      // Lumino signals take the method and its `this` as two arguments.
      '@typescript-eslint/unbound-method': 'off',
      curly: 'error',
      // All that a plugin imports is shown, or needed to show it, from the start.
      'jupyter/prefer-lazy-imports': 'off',
      eqeqeq: 'error',
      'prefer-arrow-callback': 'error'
    }
  },
  {
    files: ['src/__tests__/**'],
    rules: { 'jupyter/no-untranslated-string': 'off' }
  },
  {
    files: ['**/*.mjs', '**/*.json'],
    extends: [typescript.configs.disableTypeChecked]
  },
  {
    files: ['**/*.json'],
    rules: { '@typescript-eslint/no-unused-expressions': 'off' }
  },
  prettier
]);
